"""An agent tries to approve its own request, by every way that docs/reference/security.md says is
closed, and fails each time, for the reason that the page gives.

A real server with a passphrase, a real tmux, real panes, the real client, the real grpcurl. Each
attempt is a script that is typed into the agent's own shell. What works is tried beside it, by the
same means, so that an attempt does not fail because of a slip.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from orch.v1 import authorization_pb2 as pb
from orch.v1.authorization_pb2_grpc import AuthorizationServiceStub
from orch_server.services.passphrase import Passphrase
from orch_server.services.tokens import TokenFiles
from tests.docs.markdown import ROOT
from tests.support import Home, Server, Tmux, agent, liveness, until

RIGHT = "correct horse battery"
INTRUDER = Path(__file__).parent / "intruder.py"

SELF = "asked for authorization {id} and cannot decide it"
PROVE = "passphrase is needed to decide authorization {id}"
WRONG = "passphrase is wrong"
BIND = "passphrase is needed to bind the role {role}, which may approve, to a new pane"
OTHER = "may not decide for session atlas; these roles of that session may: orchestrator"
FORGED = "not one of this server's"
UNKNOWN = "unknown or revoked"
NO_TERMINAL = "asked on a terminal, and there is none"

#: grpcurl ends with 64 and the gRPC code.
DENIED, STRANGER = 71, 80

#: What the scripts share. `elsewhere` runs its last argument in what the others open, and waits.
PRELUDE = """
export APPROVER
call() { "$GRPCURL" -plaintext -import-path "$PROTO" -proto orch/v1/authorization.proto "${@:4}" \\
  -d "$3" "$1" "orch.v1.AuthorizationService/$2"; }
approve() { call "unix:$ORCH_HOME/orch.sock" ApproveAuthorization "$@"; }
tcp() { call "$TCP" ApproveAuthorization "$YES" "$@"; }
bearer() { echo "authorization: Bearer $1"; }
intruder() { "$PYTHON" "$INTRUDER" "$@"; }
elsewhere() { rm -f "$PIPE"; mkfifo "$PIPE"; local act="${@: -1}"
  "${@:1:$#-1}" "exec 9>&1 >$PIPE 2>&1 </dev/null; $act; echo status=\\$?"; cat "$PIPE"; }
YES="{\\"id\\": \\"$ID\\"}"
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A script, and how it must end: its exit status and what it is told."""

    script: str
    says: str
    status: int = 5
    role: str = "orchestrator"


IN_ITS_PANE = {
    "plainly": "orch-client approve $ID",
    "without tmux's variables": "env -u TMUX -u TMUX_PANE orch-client approve $ID",
    "without any variable": 'env -i PATH="$PATH" ORCH_HOME="$ORCH_HOME" orch-client approve $ID',
    "with the approver's pane": "TMUX_PANE=$APPROVER orch-client approve $ID",
    "with a pane that is not": "TMUX=/nowhere,1,0 TMUX_PANE=%999 orch-client approve $ID",
    "with a stolen hash as ORCH_TOKEN": "ORCH_TOKEN=$HASHED orch-client approve $ID",
    "with the socket by name": "ORCH_ADDRESS=unix:$ORCH_HOME/orch.sock orch-client approve $ID",
    "in a subshell": "(exec orch-client approve $ID)",
    "by nohup": "nohup orch-client approve $ID",
    "with standard input closed": "orch-client approve $ID <&-",
    "in a session of its own below the shell": "setsid -w orch-client approve $ID",
    "on a terminal of its own": 'script -qec "orch-client approve $ID" /dev/null',
    "as an orphan": (
        "( (while [ $(cut -d' ' -f4 /proc/$BASHPID/stat) = $$ ]; do :; done;"
        " orch-client approve $ID; echo status=$?) & ) | cat"
    ),
    "as an orphan that ignores hang-ups": (
        "( (trap '' HUP; nohup orch-client approve $ID; echo status=$?) & ) | cat"
    ),
    "in a renamed window": (
        "tmux rename-window -t $TMUX_PANE orchestrator; orch-client approve $ID; status=$?;"
        " tmux rename-window -t $TMUX_PANE developer; (exit $status)"
    ),
    "with the pane's option": (
        "tmux set -p -t $TMUX_PANE @orch_role orchestrator; orch-client approve $ID; status=$?;"
        " tmux set -pu -t $TMUX_PANE @orch_role; (exit $status)"
    ),
    "after it told the next level": "orch-client escalate $ID && orch-client approve $ID",
    "by the client over TCP": "ORCH_ADDRESS=$TCP ORCH_TOKEN=$OWN orch-client approve $ID",
}

OUT_OF_ITS_PANE = {
    "by setsid": 'elsewhere setsid -f sh -c "orch-client approve $ID"',
    "by setsid with standard input closed": (
        'elsewhere setsid -f sh -c "exec <&-; orch-client approve $ID"'
    ),
    "by setsid with the approver's pane": (
        'elsewhere setsid -f env TMUX_PANE=$APPROVER sh -c "orch-client approve $ID"'
    ),
    "by setsid without any variable": (
        'elsewhere setsid -f env -i PATH="$PATH" ORCH_HOME="$ORCH_HOME" sh -c'
        ' "orch-client approve $ID"'
    ),
    "in a new window": 'elsewhere tmux new-window -d "orch-client approve $ID"',
    "in a new window called orchestrator": (
        'elsewhere tmux new-window -d -n orchestrator "orch-client approve $ID"'
    ),
    "in a pane beside the approver": (
        'elsewhere tmux split-window -d -t $APPROVER "orch-client approve $ID"'
    ),
    "in a new session": 'elsewhere tmux new-session -d -s own "orch-client approve $ID"',
    "in a tmux server of its own": (
        "elsewhere tmux -S $PIPE.tmux -f /dev/null new-session -d -s atlas -n orchestrator"
        ' "orch-client approve $ID"'
    ),
    "by tmux itself": 'elsewhere tmux run-shell -b -t $APPROVER "orch-client approve $ID"',
    "by a pipe at the approver's pane": (
        'elsewhere tmux pipe-pane -t $APPROVER "orch-client approve $ID";'
        " tmux pipe-pane -t $APPROVER"
    ),
    "in a window that a note gave a role's name": (
        "elsewhere tmux new-window -d -n project_manager"
        ' "orch-client schedule 600 note; orch-client approve $ID"'
    ),
    "from a pane that tmux was made to list as the approver's": (
        'row=$(tmux display-message -p "#{pid} #{start_time} $APPROVER");'
        ' elsewhere tmux new-window -d "tmux set -p -t $TMUX_PANE @orch_role \\"x'
        '\n$row \\$\\$ 0 0 atlas:y|~|\\"; orch-client approve $ID";'
        " tmux set -pu -t $TMUX_PANE @orch_role"
    ),
    "from a process that it called the approver's first": (
        'elsewhere tmux new-window -d "APPROVER=$APPROVER $PYTHON $INTRUDER introduce orchestrator;'
        ' orch-client approve $ID"'
    ),
}

UNDER_ANOTHER_ROLE = {
    "its own pane": Attempt(
        "orch-client heartbeat --role orchestrator --take-over --once </dev/null", BIND
    ),
    "its own pane, a role that is free": Attempt(
        "orch-client heartbeat --role project_manager --take-over --once </dev/null",
        BIND,
        5,
        "project_manager",
    ),
    "its own pane, without taking over": Attempt(
        "orch-client heartbeat --role orchestrator --once", "is registered as atlas:developer", 6
    ),
    "the approver's pane": Attempt(
        "orch-client heartbeat --pane $APPROVER --once", "atlas:developer may not serve pane"
    ),
    "a new window": Attempt(
        'elsewhere tmux new-window -d "orch-client heartbeat --role orchestrator --once"', BIND
    ),
    "a new window, taking over": Attempt(
        'elsewhere tmux new-window -d "orch-client heartbeat --role orchestrator --once'
        ' --take-over"',
        BIND,
    ),
    "a new window, by its name": Attempt(
        'elsewhere tmux new-window -d -n project_manager "orch-client heartbeat --once"',
        BIND,
        5,
        "project_manager",
    ),
    "a new window, by its option": Attempt(
        'elsewhere tmux new-window -d "tmux set -p -t \\$TMUX_PANE @orch_role project_manager;'
        ' orch-client heartbeat --once"',
        BIND,
        5,
        "project_manager",
    ),
    "a tmux server of its own": Attempt(
        "elsewhere tmux -S $PIPE.tmux -f /dev/null new-session -d -s atlas"
        ' "orch-client heartbeat --role orchestrator --take-over --once"',
        BIND,
    ),
    "another process for the approver's pane": Attempt(
        'elsewhere setsid -f sh -c "orch-client heartbeat --pane $APPROVER --once --take-over'
        ' --role project_manager"',
        BIND,
        5,
        "project_manager",
    ),
    "a role that may not decide": Attempt(
        'elsewhere tmux new-window -d "orch-client heartbeat --role tester >/dev/null 2>&1 &'
        ' until orch-client whoami | grep -q :tester; do :; done; orch-client approve $ID"',
        OTHER,
    ),
    "a role called human, once a human was told": Attempt(
        "orch-client escalate $ID; orch-client escalate $ID;"
        ' elsewhere tmux new-window -d "orch-client heartbeat --role human >/dev/null 2>&1 &'
        ' until orch-client whoami | grep -q :human; do :; done; orch-client approve $ID"',
        OTHER,
    ),
}

BY_OTHER_MEANS = {
    "--as": Attempt("orch-client approve --as=orchestrator $ID", "arguments: --as=orchestrator", 2),
    "--role": Attempt(
        "orch-client approve --role=orchestrator $ID", "arguments: --role=orchestrator", 2
    ),
    "grpcurl without a token": Attempt('approve "$YES"', PROVE, DENIED),
    "grpcurl with a header of its own": Attempt(
        'approve "$YES" -H "x-orch-role: orchestrator"', PROVE, DENIED
    ),
    "an empty passphrase": Attempt(
        'approve "{\\"id\\": \\"$ID\\", \\"passphrase\\": \\"\\"}"', PROVE, DENIED
    ),
    "a guess": Attempt(
        'approve "{\\"id\\": \\"$ID\\", \\"passphrase\\": \\"guess\\"}"',
        WRONG,
        DENIED,
    ),
    "a guess on a terminal of its own": Attempt(
        'elsewhere setsid -f bash -c "$PYTHON $INTRUDER guess guess orch-client approve $ID"', WRONG
    ),
    "its token for another pane": Attempt(
        'approve "$YES" -H "$(bearer $(intruder token edited))"', FORGED, STRANGER
    ),
    "a token signed with another key": Attempt(
        'approve "$YES" -H "$(bearer $(intruder token resigned))"',
        FORGED,
        STRANGER,
    ),
    "its own token": Attempt('approve "$YES" -H "$(bearer $(intruder token))"', SELF, DENIED),
    "its own token and the right passphrase": Attempt(
        'approve "{\\"id\\": \\"$ID\\", \\"passphrase\\": \\"$RIGHT\\"}"'
        ' -H "$(bearer $(intruder token))"',
        SELF,
        DENIED,
    ),
    "its role's token over TCP": Attempt('tcp -H "$(bearer $OWN)"', SELF, DENIED),
    "a token without its word": Attempt(
        'approve "$YES" -H "authorization: $(intruder token)"',
        "not 'Bearer TOKEN'",
        STRANGER,
    ),
    "the approver's token file, its hash": Attempt(
        'approve "$YES" -H "$(bearer $HASHED)"', UNKNOWN, STRANGER
    ),
    "the operator's token file, its hash, over TCP": Attempt(
        'tcp -H "$(bearer $HASHED_OPERATOR)"', UNKNOWN, STRANGER
    ),
    "the approver's token file, its name": Attempt('tcp -H "$(bearer $NAMED)"', UNKNOWN, STRANGER),
    "the hash, by the client over TCP": Attempt(
        "ORCH_ADDRESS=$TCP ORCH_TOKEN=$HASHED orch-client approve $ID", UNKNOWN
    ),
    "TCP without a token": Attempt("tcp", "needs a token", STRANGER),
    "a token that it made for another role": Attempt(
        'tcp -H "$(bearer $(orch-server token create --session atlas --role tester))"',
        OTHER,
        DENIED,
    ),
    "a token that it made for a human": Attempt(
        "orch-client escalate $ID; orch-client escalate $ID;"
        ' tcp -H "$(bearer $(orch-server token create --session atlas --role human))"',
        OTHER,
        DENIED,
    ),
    "an approver's token without a terminal": Attempt(
        "setsid -w orch-server token create --session atlas --role orchestrator", NO_TERMINAL, 1
    ),
    "an approver's token by a guess": Attempt(
        "intruder guess guess orch-server token create --session atlas --role orchestrator",
        WRONG,
        1,
    ),
    "the operator's token by a guess": Attempt(
        "intruder guess guess orch-server token create", WRONG, 1
    ),
    "another passphrase without a terminal": Attempt(
        "setsid -w orch-server passphrase set", NO_TERMINAL, 1
    ),
    "another passphrase by a guess": Attempt(
        "intruder guess guess orch-server passphrase set", WRONG, 1
    ),
    "what was never approved": Attempt("orch-client consume $ID", "is still pending", 13),
}

ATTEMPTS = {
    **{f"in its pane: {name}": Attempt(script, SELF) for name, script in IN_ITS_PANE.items()},
    **{f"outside: {name}": Attempt(script, PROVE) for name, script in OUT_OF_ITS_PANE.items()},
    **{f"another role: {name}": one for name, one in UNDER_ANOTHER_ROLE.items()},
    **{f"by {name}": one for name, one in BY_OTHER_MEANS.items()},
}


@dataclass
class Arena:
    """A server with a passphrase, an agent, its approver, and the operator's own pane."""

    home: Home
    tmux: Tmux
    tcp: str
    known: dict[str, str]
    developer: str
    orchestrator: str
    desk: str
    ids: Iterator[str]
    stub: AuthorizationServiceStub
    count: int = field(default=0)

    def run(self, pane: str, script: str, subject: str, answer: str = "") -> tuple[int, str]:
        """Types a script into a pane's shell, and `answer` at the prompt; its exit status and what
        it printed."""
        self.count += 1
        folder = self.home.path / f"orch-try-{self.count}"
        folder.mkdir()
        values = {**self.known, "ID": subject, "PIPE": str(folder / "pipe")}
        lines = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
        (folder / "act").write_text(f"{script}\n")
        (folder / "all").write_text(
            "\n".join(lines) + PRELUDE + f". {folder}/act >{folder}/out 2>&1\n"
            f"echo $? >{folder}/new; mv {folder}/new {folder}/status\n"
        )
        for clear in ("send-keys", "-R"), ("clear-history",):  # else an old prompt is taken for it
            self.tmux.run(*clear, "-t", pane)
        self.tmux.type(pane, f". {folder}/all")
        if answer:
            self.tmux.wait_for(pane, "Operator's passphrase:")
            self.tmux.type(pane, answer)
        try:
            until((folder / "status").exists, f"the end of {script!r}", 60)
        except AssertionError:
            self.tmux.run("send-keys", "-t", pane, "C-c")
            raise
        out = (folder / "out").read_text()
        told = re.findall(r"^status=(\d+)$", out, re.M)
        return int(told[-1] if told else (folder / "status").read_text()), out

    def get(self, subject: str) -> pb.Authorization:
        return self.stub.GetAuthorization(pb.GetAuthorizationRequest(id=subject)).authorization

    def state(self, subject: str) -> str:
        name = pb.AuthorizationState.Name(self.get(subject).state)
        return name.removeprefix("AUTHORIZATION_STATE_")

    def proof(self, subject: str) -> str:
        return pb.DecisionProof.Name(self.get(subject).proof).removeprefix("DECISION_PROOF_")

    def ask(self, pane: str, *words: str) -> list[str]:
        """Asks in the name of a pane's agent."""
        asked = " ".join(shlex.quote(word) for word in words)
        status, out = self.run(pane, f"intruder ask {asked}", "")
        ids = out.split()
        assert (status, len(ids)) == (0, len(words)), out
        return ids

    def approve(self, subject: str) -> None:
        """As the operator, with the passphrase."""
        self.stub.ApproveAuthorization(pb.ApproveAuthorizationRequest(id=subject, passphrase=RIGHT))


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    """Everything starts as an operator would start it: first the passphrase, then the agents."""
    grpcurl = shutil.which("grpcurl", path=str(ROOT / ".tools" / "bin")) or shutil.which("grpcurl")
    if grpcurl is None:
        pytest.skip("grpcurl is not here; run: make tools")
    home = Home(beat=5)
    Passphrase(home.path / "passphrase").set(RIGHT)
    server = Server(home, "--listen", home.address, "--listen", "127.0.0.1:0")
    tmux = Tmux(home)
    channel = grpc.insecure_channel(home.address)
    try:
        server.start()
        yield _arena(home, server, tmux, grpcurl, AuthorizationServiceStub(channel))
    finally:
        channel.close()
        tmux.end()
        server.end()
        home.remove()


def _arena(
    home: Home, server: Server, tmux: Tmux, grpcurl: str, stub: AuthorizationServiceStub
) -> Arena:
    developer, orchestrator = (
        _shell(tmux, "atlas", "developer"),
        _shell(tmux, "atlas", "orchestrator"),
    )
    desk = _shell(tmux, "desk", "desk")
    tmux.type(developer, "orch-client heartbeat &")
    _bind_with_the_passphrase(home, tmux, orchestrator)
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the developer")
    port = re.search(r" (127\.0\.0\.1:\d+) ", server.ready_line)
    assert port
    known = {
        "GRPCURL": grpcurl,
        "PROTO": str(ROOT / "proto"),
        "PYTHON": sys.executable,
        "INTRUDER": str(INTRUDER),
        "TCP": port[1],
        "RIGHT": RIGHT,
        "APPROVER": orchestrator,
        **_tokens(home),
    }
    made = Arena(home, tmux, port[1], known, developer, orchestrator, desk, iter(()), stub)
    made.ids = iter(made.ask(developer, *(f"Tidy desk {n}" for n in range(len(ATTEMPTS) + 12))))
    return made


def _shell(tmux: Tmux, session: str, window: str) -> str:
    """A new pane whose shell has shown its prompt."""
    pane = tmux.pane(session, window)
    until(lambda: tmux.screen(pane).strip(), "a prompt")
    return pane


def _bind_with_the_passphrase(home: Home, tmux: Tmux, pane: str) -> None:
    """Types it at the prompt; then the pane has its role, and its client can go to the back."""
    tmux.type(pane, "orch-client heartbeat")
    tmux.wait_for(pane, "Operator's passphrase:")
    tmux.type(pane, RIGHT)
    tmux.wait_for(pane, "atlas:orchestrator · alive")
    tmux.run("send-keys", "-t", pane, "C-c")
    until(lambda: liveness(home, "atlas:orchestrator") == "UNMANAGED", "the goodbye")
    program = ("display-message", "-p", "-t", pane, "#{pane_current_command}")
    until(lambda: tmux.run(*program) == "bash", "the client's end")
    # An attempt takes its stream away, and bash would tell of its end in the midst of what is run.
    tmux.type(pane, "orch-client heartbeat & disown")
    until(lambda: liveness(home, "atlas:orchestrator") == "ALIVE", "the orchestrator again")


def _tokens(home: Home) -> dict[str, str]:
    """The developer's token, which it may have; and what it can make of the files of others."""
    files = TokenFiles(home.path / "tokens")
    own = files.create("atlas", "developer", "now")
    hashed = {}
    for name, (session, role) in {
        "HASHED": ("atlas", "orchestrator"),
        "HASHED_OPERATOR": ("", ""),
    }.items():
        token_id = files.create(session, role, "now").split("_")[1]
        kept = json.loads((home.path / "tokens" / f"{token_id}.json").read_text())
        hashed[name] = f"orch_{token_id}_{kept['sha256'][:43]}"
    name = hashed["HASHED"].split("_")[1]
    return {"OWN": own, "NAMED": f"orch_{name}_{name:=<43}".replace("=", "A"), **hashed}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_an_agent_cannot_approve_itself(arena: Arena, name: str) -> None:
    attempt, subject = ATTEMPTS[name], next(arena.ids)
    status, out = arena.run(arena.developer, attempt.script, subject)
    assert attempt.says.format(id=subject, role=attempt.role) in out, out
    assert status == attempt.status, out
    assert arena.state(subject) == "PENDING"
    assert agent(arena.home, "atlas:orchestrator")["pane"]["pane_id"] == arena.orchestrator


def test_another_role_in_the_pane_that_asked_does_not_help(arena: Arena) -> None:
    """Another agent, by its id, with a role that is free for all; but the same pane."""
    pane = _shell(arena.tmux, "atlas", "scout")
    arena.tmux.type(pane, "orch-client heartbeat &")
    until(lambda: liveness(arena.home, "atlas:scout") == "ALIVE", "the scout")
    (subject,) = arena.ask(pane, "Tidy up")
    for script, refused in (
        (
            "orch-client heartbeat --role watcher --take-over >/dev/null 2>&1 &"
            " until orch-client whoami | grep -q :watcher; do :; done; orch-client approve $ID",
            5,
        ),
        (
            'approve "{\\"id\\": \\"$ID\\", \\"passphrase\\": \\"$RIGHT\\"}"'
            ' -H "$(bearer $(intruder token))"',
            DENIED,
        ),
    ):
        status, out = arena.run(pane, script, subject)
        assert f"atlas:watcher {SELF.format(id=subject)}" in out, out
        assert (status, arena.state(subject)) == (refused, "PENDING")


def test_nothing_that_lies_open_holds_a_pane_s_token(arena: Arena) -> None:
    """Not the environment nor the arguments of any process, and no file but the database, which has
    the key."""
    search = (
        "cat $ORCH_HOME/tokens/* $ORCH_HOME/*.log $ORCH_HOME/passphrase /proc/[0-9]*/environ"
        " /proc/[0-9]*/cmdline 2>/dev/null"
    )
    status, out = arena.run(
        arena.developer,
        f"{{ {search}; intruder token; }} | grep -acoE '[A-Za-z0-9_=-]{{60,}}\\.[0-9a-f]{{64}}'",
        "",
    )
    assert (status, out) == (0, "1\n")


CONSUMPTIONS = {
    "another's approval": Attempt("orch-client consume $THEIRS", "only that agent can use it"),
    "its approval for other words": Attempt(
        'call unix:$ORCH_HOME/orch.sock ConsumeAuthorization "{\\"id\\": \\"$ID\\",'
        ' \\"action\\": {\\"arguments\\": \\"Burn it\\", \\"cwd\\": \\"$PWD\\"}}"'
        ' -H "$(bearer $(intruder token))"',
        "covers another action",
        DENIED,
    ),
    "its approval for a tool": Attempt(
        'call unix:$ORCH_HOME/orch.sock ConsumeAuthorization "{\\"id\\": \\"$ID\\", \\"action\\":'
        ' {\\"tool\\": \\"Bash\\", \\"arguments\\": \\"rm\\", \\"cwd\\": \\"$PWD\\"}}"'
        ' -H "$(bearer $(intruder token))"',
        "covers another action",
        DENIED,
    ),
    "its approval in another folder": Attempt(
        "(cd / && orch-client consume $ID)", "covers another action"
    ),
    "its approval in another pane": Attempt(
        'elsewhere tmux new-window -d "orch-client consume $ID"', "only that agent can use it"
    ),
    "its approval as the operator": Attempt(
        'elsewhere setsid -f sh -c "orch-client consume $ID"', "Only an agent can use an approval"
    ),
}


@pytest.mark.parametrize("name", CONSUMPTIONS)
def test_an_approval_is_used_only_for_what_it_covers(arena: Arena, name: str) -> None:
    attempt, own = CONSUMPTIONS[name], next(arena.ids)
    (theirs,) = arena.ask(arena.orchestrator, "Tidy up")
    for subject in (own, theirs):
        arena.approve(subject)
    status, out = arena.run(arena.developer, f"THEIRS={theirs}; {attempt.script}", own)
    assert attempt.says in out, out
    assert status == attempt.status, out
    assert (arena.state(own), arena.state(theirs)) == ("APPROVED", "APPROVED")


def test_an_approver_cannot_approve_for_a_human(arena: Arena) -> None:
    (subject,) = arena.ask(arena.developer, "Deploy to production")
    for script, refused in (
        ("orch-client approve $ID </dev/null", 5),
        ('approve "$YES" -H "$(bearer $(intruder token))"', DENIED),
    ):
        status, out = arena.run(arena.orchestrator, script, subject)
        assert (status, "a human must approve" in out) == (refused, True), out
    assert arena.state(subject) == "PENDING"


# ---- what works, by the same means ----


def test_an_approver_approves_what_is_routine(arena: Arena) -> None:
    subject = next(arena.ids)
    status, out = arena.run(arena.orchestrator, "orch-client approve $ID", subject)
    assert (status, arena.state(subject), arena.proof(subject)) == (0, "APPROVED", "ROLE"), out
    script = "orch-client consume $ID && ! orch-client consume $ID"
    status, out = arena.run(arena.developer, script, subject)
    assert (status, arena.state(subject)) == (0, "CONSUMED"), out


def test_the_passphrase_binds_a_role_also_for_one_beat(arena: Arena) -> None:
    pane = arena.tmux.pane("atlas", "once")
    beat = "orch-client heartbeat --once --role project_manager"
    status, out = arena.run(pane, beat, "", answer="a guess")
    assert (status, WRONG in out) == (5, True), out
    status, out = arena.run(pane, beat, "", answer=RIGHT)
    assert status == 0, out
    status, out = arena.run(pane, "orch-client whoami", "")
    assert "atlas:project_manager" in out


@pytest.mark.parametrize("place", ["desk", "orchestrator"])
def test_the_passphrase_on_a_terminal_approves_for_a_human(arena: Arena, place: str) -> None:
    (subject,) = arena.ask(arena.developer, "Deploy to production")
    pane = arena.desk if place == "desk" else arena.orchestrator
    status, out = arena.run(pane, "orch-client approve $ID", subject, answer=RIGHT)
    assert (status, arena.state(subject), arena.proof(subject)) == (0, "APPROVED", "PASSPHRASE"), (
        out
    )


KEYS = {
    "grpcurl with the passphrase": (
        'approve "{\\"id\\": \\"$ID\\", \\"passphrase\\": \\"$RIGHT\\"}"',
        "PASSPHRASE",
    ),
    "the passphrase on a terminal outside": (
        "elsewhere setsid -f bash -c \"$PYTHON $INTRUDER guess '$RIGHT' orch-client approve $ID\"",
        "PASSPHRASE",
    ),
    "an approver's token": (
        'token=$(intruder guess "$RIGHT" orch-server token create --session atlas --role'
        " orchestrator | grep -o 'orch_[^[:space:]]*'); tcp -H \"$(bearer $token)\"",
        "ROLE",
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_who_knows_the_passphrase_gets_through_where_a_guess_does_not(
    arena: Arena, name: str
) -> None:
    subject = next(arena.ids)
    script, proof = KEYS[name]
    status, out = arena.run(arena.desk, script, subject)
    assert (status, arena.state(subject), arena.proof(subject)) == (0, "APPROVED", proof), out
