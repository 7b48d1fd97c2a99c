"""Leave to act as agents and people get it: real server, real panes, the real command line."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orch_server.services.passphrase import Passphrase
from tests.support import BIN, Home, Server, Tmux, liveness, until


@dataclass(frozen=True)
class Done:
    """What a command in a pane left."""

    status: int
    out: str
    err: str


@dataclass
class Shell:
    """An agent's pane in which commands run."""

    home: Home
    tmux: Tmux
    pane: str
    calls: list[Path] = field(default_factory=list)

    def start(self, *args: str, cwd: Path | None = None) -> Callable[[], Done]:
        """Starts orch-client in the pane; what is returned waits for its end."""
        stem = self.home.path / f"orch-call-{self.pane[1:]}-{len(self.calls)}"
        self.calls.append(stem)
        out, err, done = (stem.with_suffix(f".{name}") for name in ("out", "err", "done"))
        stem.with_suffix(".sh").write_text(
            f"cd {cwd or self.home.path}\n"
            f"orch-client {shlex.join(args)} >{out} 2>{err} </dev/null\n"
            f"echo $? >{done}.new\nmv {done}.new {done}\n"
        )
        self.tmux.type(self.pane, f"bash {stem}.sh")

        def wait() -> Done:
            try:
                until(done.exists, f"the end of {args}", 40)
            except AssertionError as error:
                error.add_note(f"{out.read_text()}{err.read_text()}{self.tmux.screen(self.pane)}")
                raise
            return Done(int(done.read_text()), out.read_text(), err.read_text())

        return wait

    def run(self, *args: str, cwd: Path | None = None) -> Done:
        return self.start(*args, cwd=cwd)()

    def asks(self, *args: str) -> str:
        """The id of a new request."""
        done = self.run("authorize", "--json", *args)
        assert done.status == 0, done.err
        return str(json.loads(done.out)["id"])

    def fails(self, status: int, says: str, *args: str, cwd: Path | None = None) -> None:
        done = self.run(*args, cwd=cwd)
        assert (done.status, done.out, done.err.count("\n")) == (status, "", 1), done
        assert says in done.err


@pytest.fixture
def shells(home: Home, tmux: Tmux) -> Callable[[str], Shell]:
    """Opens the pane of an agent with this role; a server must run."""

    def make(role: str) -> Shell:
        pane = tmux.pane("atlas", role)
        tmux.wait_for(pane, "bash-")
        tmux.type(pane, "orch-client heartbeat &")
        until(lambda: liveness(home, f"atlas:{role}") == "ALIVE", role)
        return Shell(home, tmux, pane)

    return make


def _state(home: Home, name: str) -> str:
    state = home.json("authorization", name)["state"]
    return str(state).removeprefix("AUTHORIZATION_STATE_").lower()


def _pending(home: Home) -> dict[str, Any]:
    """The one that waits, once there is one."""
    return dict(until(lambda: home.json("pending"), "a request")[0])


# ---- using an approval ----


def test_a_waiter_uses_its_approval_and_nobody_can_use_it_again(
    home: Home, server: Server, shells: Callable[[str], Shell]
) -> None:
    developer, orchestrator = shells("developer"), shells("orchestrator")
    waiter = developer.start("authorize", "--wait", "--timeout", "5m", "Deploy to production")
    asked = _pending(home)
    assert asked["bound_action"] == {"arguments": "Deploy to production", "cwd": str(home.path)}
    assert orchestrator.run("approve", asked["id"], "--reason", "go ahead").status == 0
    done = waiter()
    assert (done.status, done.err) == (0, "")
    assert re.search(r"^state +approved$", done.out, re.M)
    assert re.search(r"^reason +go ahead$", done.out, re.M)
    assert done.out.endswith(f"{asked['id']} is used by this; it may be done now, once.\n")
    found = home.json("authorization", asked["id"])
    assert found["state"] == "AUTHORIZATION_STATE_CONSUMED"
    assert found["close_time"] >= found["resolve_time"]
    says = f"Authorization {asked['id']} is consumed; it allows nothing, ask anew."
    developer.fails(6, says, "consume", asked["id"])


def test_a_waiter_goes_on_over_a_killed_server_and_uses_its_approval(
    home: Home, server: Server, shells: Callable[[str], Shell]
) -> None:
    waiter = shells("developer").start("authorize", "--wait", "--json", "Tidy up")
    asked = _pending(home)["id"]
    server.kill()
    server.start()
    assert home.client("approve", asked).returncode == 0
    done = waiter()
    assert (done.status, json.loads(done.out)["state"]) == (0, "AUTHORIZATION_STATE_APPROVED")
    assert _state(home, asked) == "consumed"


def test_who_gave_up_waiting_waits_on_by_consume_and_uses_the_approval(
    home: Home, server: Server, shells: Callable[[str], Shell]
) -> None:
    developer = shells("developer")
    done = developer.run("authorize", "--wait", "--timeout", "1s", "Tidy up")
    asked = _pending(home)["id"]
    hint = f"orch-client: {asked} still stands; wait on: orch-client consume {asked} --wait;"
    assert (done.status, done.err.count("\n")) == (13, 1)
    assert done.err.startswith(hint)
    done = developer.run("consume", asked, "--wait", "--timeout", "0.5s")
    assert (done.status, done.err.startswith(hint)) == (13, True)
    waiter = developer.start("consume", asked[:8], "--wait")
    assert home.client("approve", asked).returncode == 0
    done = waiter()
    assert (done.status, done.err) == (0, "")
    assert done.out.endswith(f"{asked} is used by this; it may be done now, once.\n")
    says = f"orch-client: {asked} was used by another command; ask anew.\n"
    done = developer.run("consume", asked, "--wait")
    assert (done.status, done.err) == (6, says)
    denied = developer.asks("Tidy more")
    assert home.client("deny", denied, "--reason", "no").returncode == 0
    assert developer.run("consume", denied, "--wait").status == 10


def test_an_approval_holds_once_for_the_one_that_asked_where_it_asked(
    home: Home, server: Server, shells: Callable[[str], Shell], tmp_path: Path
) -> None:
    developer, tester = shells("developer"), shells("tester")
    asked = developer.asks("Tidy up")
    says = f"Authorization {asked} is still pending; nothing was approved"
    developer.fails(13, says, "consume", asked)
    assert home.client("approve", asked).returncode == 0
    elsewhere = f"Authorization {asked} covers another action, or the same one elsewhere"
    developer.fails(5, elsewhere, "consume", asked, cwd=tmp_path)
    theirs = f"Authorization {asked} is atlas:developer's; only that agent can use it."
    tester.fails(5, theirs, "consume", asked)
    assert _state(home, asked) == "approved"
    done = developer.run("consume", asked[:8])
    assert (done.status, done.err) == (0, "")
    assert re.search(r"^state +consumed$", done.out, re.M)
    developer.fails(6, f"Authorization {asked} is consumed", "consume", asked)


def test_another_pane_with_the_same_role_and_another_process_in_the_pane_cannot_use_it(
    home: Home, tmux: Tmux, server: Server, shells: Callable[[str], Shell]
) -> None:
    developer, other = shells("developer"), shells("other")
    asked = developer.asks("Tidy up")
    assert home.client("approve", asked).returncode == 0
    take = ("heartbeat", "--role", "developer", "--take-over", "--once")
    assert other.run(*take).status == 0
    elsewhere = f"Authorization {asked} covers another action, or the same one elsewhere"
    other.fails(5, elsewhere, "consume", asked)
    assert _state(home, asked) == "approved"

    mine = other.asks("Tidy up")
    assert home.client("approve", mine).returncode == 0
    tmux.run("respawn-pane", "-k", "-t", other.pane, "exec bash --norc --noprofile")
    tmux.wait_for(other.pane, "bash-")
    elsewhere = f"Authorization {mine} covers another action, or the same one elsewhere"
    other.fails(5, elsewhere, "consume", mine)
    assert _state(home, mine) == "approved"


# ---- what else becomes of a request ----


def _length(found: dict[str, Any]) -> timedelta:
    begin, end = (datetime.fromisoformat(found[name]) for name in ("create_time", "deadline"))
    return end - begin


def test_the_deadline_is_the_one_that_was_asked_for(
    home: Home, server: Server, shells: Callable[[str], Shell]
) -> None:
    developer = shells("developer")
    developer.asks("--deadline", "2h", "Deploy")
    assert _length(_pending(home)) == timedelta(hours=2)
    done = developer.run("authorize", "--wait", "--deadline", "1s", "Deploy")
    assert (done.status, done.err) == (11, "")
    assert re.search(r"^state +expired$", done.out, re.M)
    assert re.search(r"^reason +Nobody decided in time\.$", done.out, re.M)


def test_a_waiter_whose_request_is_withdrawn_says_so(
    home: Home, server: Server, shells: Callable[[str], Shell]
) -> None:
    developer, tester = shells("developer"), shells("tester")
    waiter = developer.start("authorize", "--wait", "Tidy up")
    asked = _pending(home)["id"]
    tester.fails(5, "atlas:tester may not withdraw", "withdraw", asked)
    assert home.client("withdraw", asked).returncode == 0
    assert waiter().status == 12
    assert _state(home, asked) == "cancelled"


def test_the_next_level_is_told_when_somebody_asks_for_it(
    home: Home, server: Server, shells: Callable[[str], Shell]
) -> None:
    developer, tester, lead = shells("developer"), shells("tester"), shells("orchestrator")
    shells("project_manager")  # else the orchestrator is asked in its place
    asked = developer.asks("--to", "project_manager", "Tidy up")
    tester.fails(5, "atlas:tester may not escalate", "escalate", asked)
    first, second = home.json("authorization", asked)["levels"]
    assert (first["receiver"], second["receiver"]) == ("orchestrator", "human")
    assert not {"tell_time"} & (set(first) | set(second))
    done = developer.run("escalate", asked)
    assert re.search(r"^levels +orchestrator  reached ", done.out, re.M), done
    lead.tmux.wait_for(lead.pane, "(escalated to you)")
    assert home.json("alerts") == []
    done = lead.run("escalate", asked, "--json")
    assert all("tell_time" in level for level in json.loads(done.out)["levels"])
    (alert,) = home.json("alerts")
    assert (alert["kind"], alert["subject"]) == ("authorization", asked)
    developer.fails(6, "Every level of authorization", "escalate", asked)
    assert lead.run("approve", asked).status == 0
    developer.fails(6, "is not pending any more", "escalate", asked)


# ---- the passphrase ----


_PROMPT = "Operator's passphrase:"


def test_a_human_is_asked_for_the_passphrase_where_the_class_needs_one(
    home: Home, tmux: Tmux, server: Server, shells: Callable[[str], Shell]
) -> None:
    developer, pm = shells("developer"), shells("project_manager")
    Passphrase(home.path / "passphrase").set("correct horse")
    critical, routine = developer.asks("Deploy"), developer.asks("Tidy up")
    says = "whose class critical a human must approve. Run this on a terminal, where it is"
    pm.fails(5, says, "approve", critical)
    done = pm.run("approve", routine, "--json")
    assert json.loads(done.out)["proof"] == "DECISION_PROOF_ROLE"
    for number, (typed, status) in enumerate((("wrong", 5), ("correct horse", 0)), 1):
        tmux.type(pm.pane, f'orch-client approve {critical}; echo "try-{number}=$?"')
        until(lambda n=number: tmux.screen(pm.pane).count(_PROMPT) == n, "the prompt")
        tmux.type(pm.pane, typed)
        tmux.wait_for(pm.pane, f"try-{number}={status}")
    screen = tmux.screen(pm.pane)
    assert "The passphrase is wrong; it is needed to approve authorization" in screen
    assert "correct horse" not in screen
    found = home.json("authorization", critical)
    assert (found["resolver"], found["proof"]) == (
        "atlas:project_manager",
        "DECISION_PROOF_PASSPHRASE",
    )
    denied = developer.asks("Deploy again")
    assert pm.run("deny", denied, "--reason", "no").status == 0


# ---- figures, and what is wrong: with tokens instead of panes ----

#: For as long as all the tests of this server take; by its priority one would have 5 min.
_STANDS = ("--deadline", "24h")
_POLICY = """
beat_interval = 1
[[authorization.classes]]
name = "release"
words = ["release"]
approvers = ["orchestrator"]
reason_required = true
"""


@dataclass(frozen=True)
class Place:
    """A server with a policy, who calls it, and a request in each state by the state's name."""

    home: Home
    developer: dict[str, str]
    pm: dict[str, str]
    ids: dict[str, str] = field(default_factory=dict)

    def asks(self, *args: str) -> str:
        return str(self.home.json("authorize", *args, **self.developer)["id"])

    def does(self, *args: str, **env: str) -> None:
        done = self.home.client(*args, **env)
        assert done.returncode == 0, done.stderr


def _token(home: Home, role: str, port: str) -> dict[str, str]:
    token = _orch_server(home, "token", "create", "--session", "atlas", "--role", role)
    return {"ORCH_ADDRESS": f"127.0.0.1:{port}", "ORCH_TOKEN": token.strip()}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Requests in every state but LAPSED; the server has no passphrase."""
    home = Home()
    home.configure(_POLICY)
    server = Server(home, "--listen", home.address, "--listen", "127.0.0.1:0").start()
    try:
        port = re.search(r"127\.0\.0\.1:(\d+)", server.ready_line)
        assert port
        made = Place(home, *(_token(home, role, port[1]) for role in ("developer", "pm")))
        ids = made.ids
        for name in ("pending", "approved", "denied", "cancelled", "consumed"):
            ids[name] = made.asks(*_STANDS, f"Tidy {name}")
        ids["release"] = made.asks(*_STANDS, "--priority", "high", "Release it")
        ids["expired"] = made.asks("--deadline", "1s", "Tidy soon")
        made.does("approve", ids["approved"])
        made.does("approve", ids["consumed"])
        made.does("consume", ids["consumed"], **made.developer)
        made.does("deny", ids["denied"], "--reason", "no")
        made.does("withdraw", ids["cancelled"], **made.developer)
        until(lambda: _state(home, ids["expired"]) == "expired", "the expiry")
        yield made
    finally:
        server.end()
        home.remove()


def test_figures_tell_what_became_of_all(place: Place) -> None:
    found = place.home.json("authorization", "stats", "--since", "1d", "--session", "atlas")
    counts = {"approved": 2, "denied": 1, "expired": 1, "cancelled": 1, "pending": 2}
    every = found["all"]
    assert (every["name"], every["requests"]) == ("all", 7)
    assert {name: every[name] for name in counts} == counts
    assert [one["name"] for one in found["by_priority"]] == ["high", "low"]
    (operator,) = found["by_resolver"]
    assert (operator["name"], operator["requests"]) == ("operator", 3)
    assert {"mean", "median", "p95"} <= set(operator)
    shown = place.home.client("authorization", "stats").stdout.splitlines()
    assert [line.split("  ")[0] for line in shown[2:6]] == [
        "all",
        "priority high",
        "priority low",
        "by operator",
    ]
    assert re.fullmatch(
        r"A decision took \S+s on the average; the target of 10m is met\.", shown[6]
    )
    nothing = place.home.client("authorization", "stats", "--session", "nowhere").stdout
    assert nothing.endswith("Nothing was decided that could be held against the target of 10m.\n")


_OVER = "it cannot be changed any more"
_RANGE = "The deadline is out of range; use 1 s to 24 h."


@pytest.mark.parametrize(
    ("who", "args", "status", "says"),
    [
        ("developer", ("authorize", ""), 2, "the action is empty"),
        ("developer", ("authorize", " \n\t"), 2, "the action is empty"),
        ("developer", ("authorize", "\x1b\x07"), 2, "The action is empty"),
        ("operator", ("authorize", "Tidy"), 5, "Only an agent can ask for authorization"),
        (
            "developer",
            ("authorize", "Tidy", "--to", "intern"),
            2,
            "The role 'intern' may not approve actions of the class routine; ask one of:"
            " orchestrator, project_manager.",
        ),
        (
            "developer",
            ("authorize", "Release", "--to", "project_manager"),
            2,
            "of the class release; ask one of: orchestrator.",
        ),
        ("developer", ("authorize", "x", "--to", "human"), 2, "The role 'human' may not approve"),
        ("developer", ("authorize", "x", "--deadline", "0.5s"), 2, _RANGE),
        ("developer", ("authorize", "x", "--deadline", "25h"), 2, _RANGE),
        ("developer", ("authorize", "x", "--deadline", "0"), 2, "--deadline is '0'"),
        ("developer", ("authorize", "x", "--deadline", "soon"), 2, "--deadline is 'soon'"),
        ("operator", ("approve", "ffff"), 4, "There is no authorization 'ffff'"),
        ("operator", ("approve", ""), 4, "There is no authorization ''"),
        ("operator", ("approve", "{expired}"), 6, f"{{expired}} is already expired; {_OVER}"),
        ("operator", ("approve", "{consumed}"), 6, f"{{consumed}} is already consumed; {_OVER}"),
        ("operator", ("approve", "{approved}"), 6, f"{{approved}} is already approved; {_OVER}"),
        ("operator", ("approve", "{denied}"), 6, f"{{denied}} is already denied; {_OVER}"),
        ("operator", ("approve", "{cancelled}"), 6, f"{{cancelled}} is already cancelled; {_OVER}"),
        (
            "operator",
            ("approve", "{release}"),
            2,
            "An approval of the class release needs a reason; give it with --reason.",
        ),
        ("operator", ("approve", "{release}", "--reason", " "), 2, "release needs a reason"),
        ("operator", ("approve", "{release}", "--reason", "\x1b"), 2, "The reason is empty"),
        ("developer", ("approve", "{pending}"), 5, "asked for authorization {pending} and cannot"),
        ("pm", ("approve", "{pending}"), 5, "atlas:pm may not decide for session atlas; these"),
        ("operator", ("deny", "{expired}", "--reason", "x"), 6, "{expired} is already expired"),
        ("operator", ("deny", "{pending}", "--reason", " "), 2, "A denial needs a reason"),
        ("operator", ("deny", "{pending}", "--reason", "x" * 16_385), 2, "at most 16,384"),
        ("operator", ("withdraw", "{consumed}"), 6, f"{{consumed}} is already consumed; {_OVER}"),
        ("operator", ("withdraw", "{denied}"), 6, f"{{denied}} is already denied; {_OVER}"),
        ("pm", ("withdraw", "{pending}"), 5, "atlas:pm may not withdraw authorization {pending}"),
        ("developer", ("consume", "{pending}"), 13, "{pending} is still pending; nothing was"),
        ("developer", ("consume", "ffff", "--wait"), 4, "There is no authorization 'ffff'"),
        ("developer", ("consume", "{denied}"), 6, "{denied} is denied; it allows nothing"),
        ("developer", ("consume", "{expired}"), 6, "{expired} is expired; it allows nothing"),
        ("developer", ("consume", "{cancelled}"), 6, "{cancelled} is cancelled; it allows nothing"),
        ("developer", ("consume", "{consumed}"), 6, "{consumed} is consumed; it allows nothing"),
        ("developer", ("consume", "ffff"), 4, "There is no authorization 'ffff'"),
        ("operator", ("consume", "{approved}"), 5, "Only an agent can use an approval"),
        ("pm", ("consume", "{approved}"), 5, "{approved} is atlas:developer's; only that agent"),
        ("operator", ("escalate", "{consumed}"), 6, "{consumed} is not pending any more"),
        ("operator", ("escalate", "ffff"), 4, "There is no authorization 'ffff'"),
        ("pm", ("escalate", "{pending}"), 5, "atlas:pm may not escalate authorization {pending}"),
        ("operator", ("authorization", "ffff"), 4, "There is no authorization 'ffff'"),
        ("operator", ("authorization", "x'; drop"), 4, "There is no authorization 'x'; drop'"),
        ("operator", ("authorization", "stats", "--since", "401d"), 2, "use 1 s to 400 days"),
        ("operator", ("authorization", "stats", "--since", "soon"), 2, "--since is 'soon'"),
        ("operator", ("authorization", "{pending}", "--since", "1d"), 2, "go with stats"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_each_mistake_is_one_sentence_and_changes_nothing(
    place: Place, who: str, args: tuple[str, ...], status: int, says: str
) -> None:
    env = {"operator": {}, "developer": place.developer, "pm": place.pm}[who]
    filled = [_filled(word, place.ids) for word in args]
    before = [place.home.json("authorization", one) for one in place.ids.values()]
    done = place.home.client(*filled, stdin="", **env)
    assert (done.returncode, done.stdout) == (status, ""), (done.returncode, done.stderr)
    assert done.stderr.startswith("orch-client: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert _filled(says, place.ids) in done.stderr
    assert [place.home.json("authorization", one) for one in place.ids.values()] == before
    assert len(place.home.json("pending")) == 2


def _filled(text: str, ids: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: ids[name[1]], text)


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (16_385, "The action has 16,385 bytes, but at most 16,384 are allowed"),
        (1_000_000, "The action has 1,000,000 bytes, but at most 16,384 are allowed"),
        (1_048_577, "has more than 1,048,576 bytes, but at most 16,384 are allowed."),
    ],
)
def test_an_action_has_a_size(place: Place, size: int, says: str) -> None:
    done = place.home.client("authorize", "-", stdin="x" * size, **place.developer)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert says in done.stderr


def test_a_flag_that_means_nothing_is_a_usage_error(place: Place) -> None:
    for args in (("authorize", "--priority", "urgent", "x"), ("deny", place.ids["pending"])):
        done = place.home.client(*args, **place.developer)
        assert (done.returncode, done.stdout) == (2, "")
        assert "usage: orch-client" in done.stderr
    assert len(place.home.json("pending")) == 2


def test_each_state_is_listed_by_itself_and_all_together(place: Place) -> None:
    for state in ("approved", "denied", "cancelled", "consumed", "expired", "lapsed"):
        listed = place.home.json("pending", "--state", state)
        assert [one["id"] for one in listed] == ([place.ids[state]] if state in place.ids else [])
    listed = place.home.json("pending", "--state", "all", "--session", "atlas")
    assert {one["id"] for one in listed} == set(place.ids.values())
    assert place.home.json("pending", "--state", "pending") == place.home.json("pending")


def test_a_revoked_token_ends_a_wait_when_the_server_comes_back(home: Home) -> None:
    home.configure(_POLICY)
    listens = ("--listen", home.address, "--listen")
    server = Server(home, *listens, "127.0.0.1:0").start()
    try:
        port = re.search(r"127\.0\.0\.1:(\d+)", server.ready_line)
        assert port
        developer = _token(home, "developer", port[1])
        asked = home.json("authorize", "Tidy", **developer)["id"]
        waiter = subprocess.Popen(
            [str(BIN / "orch-client"), "consume", asked, "--wait", "--timeout", "30s"],
            env=home.env(**developer),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with waiter:
            server.kill()
            _orch_server(home, "token", "revoke", _token_id(home))
            server = Server(home, *listens, f"127.0.0.1:{port[1]}").start()
            out, err = waiter.communicate(timeout=25)
        assert (waiter.returncode, err.count("\n")) == (5, 1), (out, err)
    finally:
        server.end()


def _token_id(home: Home) -> str:
    return str(json.loads(_orch_server(home, "token", "list", "--json"))[0]["id"])


def _orch_server(home: Home, *args: str) -> str:
    done = subprocess.run(
        ["orch-server", *args],
        env=home.env(),
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return done.stdout


def test_what_waits_is_listed_by_urgency_with_what_it_takes(place: Place) -> None:
    listed = place.home.client("pending").stdout
    head, first, second = listed.splitlines()
    assert head.split()[-2:] == ["CLASS", "ACTION"]
    assert [row.split()[0] for row in (first, second)] == [
        place.ids["release"],
        place.ids["pending"],
    ]
    assert first.endswith("  release (reason)  Release it")
    assert re.search(r"  - +Tidy pending$", second)
    assert str(BIN) not in listed
