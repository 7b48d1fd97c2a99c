"""Bad input: one clear sentence, the right status, nothing half-done."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from orch_client.cli import COMMANDS
from tests.e2e.record import arrived
from tests.support import BIN, Client, Home, Server, Tmux, agent, liveness, until


def _fails(home: Home, status: int, *args: str, says: str, stdin: str | None = None) -> None:
    done = home.client(*args, stdin=stdin)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("orch-client: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr


def _server_refuses(home: Home, *args: str, says: str) -> None:
    done = subprocess.run(
        [str(BIN / "orch-server"), "run", *args],
        env=home.env(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1, (done.returncode, done.stderr)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("orch-server: ")
    assert says in last, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        (("schedule", "-1", "x"), 2, "MINUTES is '-1'"),
        (("schedule", "nan", "x"), 2, "MINUTES is 'nan'"),
        (("schedule", "inf", "x"), 2, "MINUTES is 'inf'"),
        (("schedule", "527041", "x"), 2, "366 days"),
        (("schedule", "soon", "x"), 2, "MINUTES is 'soon'"),
        (("schedule", "1", ""), 2, "the note is empty"),
        (("schedule", "1", "  \n\t"), 2, "the note is empty"),
        (("schedule", "1", "\x1b\x07"), 2, "note is empty"),
        (("schedule", "1", "x"), 2, "no agent's pane"),
        (("schedule", "1", "x", "--to", "atlas:nobody"), 4, "atlas:developer"),
        (("schedule", "1", "x", "--to", "%99"), 4, "%99"),
        (("schedule", "1", "x", "--to", "nobody"), 4, "atlas:developer"),
        (("schedule", "1", "x", "--to", "@all"), 2, "many agents"),
        (("cancel", "ffff"), 4, "no task 'ffff'"),
        (("task", "not-an-id"), 4, "not-an-id"),
        (("approve", "ffff"), 4, "no authorization 'ffff'"),
        (("deny", "ffff", "--reason", " "), 2, "needs a reason"),
        (("authorize", "Deploy"), 5, "Only an agent"),
        (("authorize", "Deploy", "--to", "intern"), 2, "orchestrator, project_manager"),
        (("authorize", ""), 2, "the action is empty"),
        (("authorize", "x", "--timeout", "5m"), 2, "--timeout goes with --wait"),
        (("authorize", "x", "--wait", "--timeout", "never"), 2, "no duration"),
        (("state", "nowhere"), 4, "there are: atlas"),
        (("heartbeat", "--pane", "5"), 2, "'5' is no pane"),
        (("heartbeat",), 2, "--pane %ID"),
        (("heartbeat", "--pane", "%99"), 2, "no pane %99"),
        (("send", "atlas:nobody", "x"), 4, "atlas:developer"),
        (("send", "%99", "x"), 4, "%99"),
        (("send", "nobody", "x"), 4, "atlas:developer"),
        (("send", "", "x"), 2, "target"),
        (("send", "@nowhere", "x"), 2, "no group"),
        (("send", "@session:nowhere", "x"), 4, "nowhere"),
        (("send", "atlas:a'b\"c", "x"), 4, "a'b\"c"),
        (("send", "at.las:x", "x"), 4, "at.las:x"),
        (("send", "atlas:a\nb:c", "x"), 4, "atlas:a?b:c"),
        (("send", "#(touch pwned):x", "x"), 4, "#(touch pwned)"),
        (("send", "atlas:developer", ""), 2, "the text is empty"),
        (("send", "atlas:developer", "\x1b\x07"), 2, "text is empty"),
        (("send", "atlas:developer", "x", "--ttl", "31d"), 2, "30 days"),
        (("send", "atlas:developer", "x", "--wait-reply", "2h"), 2, "reply"),
        (("send", "atlas:developer", "--template", "nothing"), 4, "status-request"),
        (("send", "atlas:developer", "--template", "standup"), 2, "team"),
        (("send", "atlas:developer", "--template", "../x"), 4, "standup"),
        (("messages", "--agent", "atlas:nobody"), 4, "nobody"),
        (("delivery", "ffff"), 4, "no delivery 'ffff'"),
        (("delivery", "cancel", "ffff"), 4, "no delivery 'ffff'"),
        (("dnd", "on"), 2, "target"),
        (("dnd", "on", "atlas:nobody"), 4, "nobody"),
        (("frobnicate",), 2, "no command 'frobnicate'"),
    ],
)
def test_each_mistake_gets_one_sentence(
    shared: Home, args: tuple[str, ...], status: int, says: str
) -> None:
    before = len(shared.json("tasks")), len(shared.json("messages"))
    _fails(shared, status, *args, says=says, stdin="" if args == ("authorize", "") else None)
    assert (len(shared.json("tasks")), len(shared.json("messages"))) == before


@pytest.fixture(scope="module")
def shared() -> object:
    """One server with one agent for all the mistakes that change nothing."""
    home = Home(beat=1)
    server, tmux = Server(home).start(), Tmux(home)
    try:
        pane = tmux.pane("atlas", "developer")
        tmux.type(pane, "orch-client heartbeat &")
        until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the developer")
        yield home
    finally:
        tmux.end()
        server.end()
        home.remove()


def test_notes_have_a_size(shared: Home) -> None:
    to = ("--to", "atlas:developer")
    _fails(shared, 2, "schedule", "60", "-", *to, says="262,144", stdin="x" * 1_000_000)
    _fails(shared, 2, "schedule", "60", "-", *to, says="262,145 bytes", stdin="x" * 262_145)
    task = shared.client("schedule", "60", "-", *to, "--json", stdin="x" * 262_144)
    assert task.returncode == 0, task.stderr


def test_control_characters_are_removed_and_the_answer_says_so(shared: Home) -> None:
    done = shared.client(
        "schedule", "60", "a\x1b[201~b\r\nc\x00"[:-1], "--to", "atlas:developer", "--json"
    )
    assert done.returncode == 0
    assert "1 control character was removed" in done.stderr
    assert '"note": "a[201~b\\nc"' in done.stdout


def test_a_note_that_is_not_utf8_is_refused(shared: Home) -> None:
    done = subprocess.run(
        [str(BIN / "orch-client"), "schedule", "1", b"\xff\xfe", "--to", "atlas:developer"],
        env=shared.env(),
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    said = b"orch-client: argument 3 is not valid UTF-8 at byte offset 0.\n"
    assert done.stderr == said


def test_messages_have_a_size(shared: Home) -> None:
    for size, says in ((262_145, "262,145 bytes"), (1_048_577, "262,144 are allowed")):
        _fails(shared, 2, "send", "atlas:developer", says=says, stdin="x" * size)


def test_a_text_from_a_pipe_that_is_not_utf8_is_refused(shared: Home) -> None:
    for locale in ("C.UTF-8", "C"):
        done = subprocess.run(
            [str(BIN / "orch-client"), "send", "atlas:developer"],
            env=shared.env(LC_ALL=locale),
            input="größer".encode("latin-1"),
            capture_output=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.endswith(b"standard input is not valid UTF-8 at byte offset 2.\n")


@pytest.mark.parametrize(
    ("given", "typed"),
    [
        (b"x", "x"),
        (b"ends with;", "ends with;"),
        (b"a;b \\; c;", "a;b \\; c;"),
        (b"-rf --plain", "-rf --plain"),
        (b"#(touch pwned) #{pane_id} $(touch pwned)", None),
        (b"\x1b[201~after\x1b[2J", "[201~after[2J"),
        (b"nul\x00nul", "nulnul"),
        (b"one\r\ntwo\rthree\n", "one\ntwo\nthree\n"),
        ("e\u0301 \U0001f468\u200d\U0001f469\u200d\U0001f467 größer".encode(), None),
        (b"z" * 262_144, None),
    ],
    ids=lambda value: repr(value)[:16],
)
@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_a_text_arrives_as_it_is_and_is_never_executed(
    recorded: tuple[Home, Path], given: bytes, typed: str | None, locale: str
) -> None:
    home, record = recorded
    record.write_bytes(b"")
    done = subprocess.run(
        [str(BIN / "orch-client"), "send", "atlas:tester", "--plain", "--wait", "20s"],
        env=home.env(LC_ALL=locale),
        input=given,
        cwd=home.path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    removed = sum(given.count(c) for c in (b"\x1b", b"\x00"))
    assert (b"control characters were removed" in done.stderr) == bool(removed)
    text = (given if typed is None else typed.encode()) + b"\r"
    assert arrived(record, text) == text
    assert not list(home.path.glob("pwned"))


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_arguments_are_utf8_in_every_locale(recorded: tuple[Home, Path], locale: str) -> None:
    home, record = recorded
    record.write_bytes(b"")
    text = "größer 🚀 ‘x’;"
    send = ("send", "atlas:tester", "--plain", "--wait", "20s", text)
    done = home.client(*send, LC_ALL=locale)
    assert done.returncode == 0, done.stderr
    assert arrived(record, f"{text}\r".encode()) == f"{text}\r".encode()
    assert home.json("messages", "--limit", "1", LC_ALL=locale)[0]["text"] == text
    assert home.client("messages", "--limit", "1", LC_ALL=locale).returncode == 0


@pytest.fixture(scope="module")
def recorded() -> object:
    """One server with one agent, atlas:tester, whose pane writes what is typed into a file."""
    home = Home(beat=1)
    server, tmux = Server(home).start(), Tmux(home)
    client = None
    try:
        record = home.path / "orch-record"
        client = Client(tmux, tmux.recorder("atlas", "tester", record), "--kind", "generic")
        until(lambda: liveness(home, "atlas:tester") == "ALIVE", "the tester")
        yield home, record
    finally:
        if client is not None:
            client.end()
        tmux.end()
        server.end()
        home.remove()


def test_names_with_odd_characters_are_told_apart(
    home: Home, tmux: Tmux, server: Server, heartbeat: Callable[..., Client]
) -> None:
    for number, window in enumerate(("a.b", 'it\'s "x"', "##(touch pwned)", "c:d")):
        record = home.path / f"orch-record-{number}"
        heartbeat(
            tmux.recorder("at'las", window, record), "--kind", "generic", "--role", f"r{number}"
        )
        until(lambda role=f"at'las:r{number}": liveness(home, role) == "ALIVE", window)
        name = window.replace("##", "#")  # as tmux itself wants it escaped
        send = ("send", f"at'las:{name}", "--plain", "--wait", "20s", "for you")
        done = home.client(*send)
        assert done.returncode == 0, (window, done.stderr)
        assert arrived(record, b"for you\r") == b"for you\r"
    assert not list(home.path.glob("pwned"))


def test_a_cancelled_task_stays_cancelled(shared: Home) -> None:
    task = shared.json("schedule", "60", "never", "--to", "atlas:developer")["id"]
    assert shared.json("cancel", task[:6])["state"] == "TASK_STATE_CANCELLED"
    _fails(shared, 6, "cancel", task, says="already cancelled")


def test_a_server_that_is_not_there(home: Home) -> None:
    for args in (("agents",), ("schedule", "1", "x"), ("heartbeat", "--pane", "%0")):
        _fails(home, 3, *args, says="start it: orch-server run")


def test_a_second_server_is_refused_and_the_first_goes_on(home: Home, server: Server) -> None:
    _server_refuses(home, says="Another orch-server already serves")
    assert home.json("agents") == []


def test_a_socket_path_that_is_too_long(home: Home) -> None:
    long = home.path / ("x" * 90)
    _server_refuses(home, "--home", str(long), says="may have at most 107")


def test_listening_beyond_loopback_is_refused(home: Home) -> None:
    _server_refuses(home, "--listen", "0.0.0.0:50051", says="Beyond loopback needs TLS")


def test_a_port_that_is_taken(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        _server_refuses(home, "--listen", address, says="cannot listen")


def test_a_wrong_configuration_names_key_value_and_cure(home: Home) -> None:
    for text, says in (
        ("beat_interval = 0\n", "beat_interval is 0; use a number of seconds"),
        ("nudges_per_hour = -1\n", "nudges_per_hour is -1; use a whole number from 0 to 60"),
        ("nudges_per_hour = true\n", "nudges_per_hour is True; use a whole number"),
        ('alert_webhook = "ftp://h/x"\n', "alert_webhook is no URL; use one such as"),
        ("alert_webhook = 5\n", "alert_webhook is no URL; use one such as"),
        ('alert_webhook = "http://h:99999/"\n', "alert_webhook is no URL; use one such as"),
        ("beats = 1\n", "unknown key 'beats'; known are: listen"),
        ("approver_roles = []\n", "approver_roles must be a list"),
        ("log_level = 'loud'\n", "log_level is 'loud'; use one of"),
        ("listen = [", "cannot be read"),
    ):
        home.configure(text)
        _server_refuses(home, says=says)


def test_a_folder_with_other_files_is_not_closed_to_their_users(home: Home) -> None:
    folder = home.path / "orch-shared"
    folder.mkdir(mode=0o755)
    (folder / "thesis.txt").touch()
    _server_refuses(home, "--home", str(folder), says="holds other files")
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_database_that_cannot_be_used(home: Home) -> None:
    Server(home).start().stop()
    database = home.path / "orch.db"
    database.chmod(0o444)
    _server_refuses(home, says="is read-only; make it writable")
    database.chmod(0o600)
    with sqlite3.connect(database) as db:
        db.execute(
            "insert into schema_migration (name, applied) values ('9999_later', '2030-01-01')"
        )
    db.close()
    _server_refuses(home, says="written by a newer version")
    database.write_bytes(b"this is no database, " * 500)
    _server_refuses(home, says="is damaged")


def test_only_this_user_can_reach_the_sockets(home: Home, server: Server) -> None:
    assert home.path.stat().st_mode & 0o777 == 0o700
    for name in ("orch.sock", "orch-id.sock", "orch.db"):
        assert (home.path / name).stat().st_mode & 0o777 == 0o600, name


def test_a_pane_that_dies_before_its_note_is_due(home: Home, tmux: Tmux, server: Server) -> None:
    doomed = tmux.pane("atlas", "doomed")
    tmux.pane("atlas", "other")
    tmux.type(doomed, "orch-client heartbeat &")
    until(lambda: liveness(home, "atlas:doomed") == "ALIVE", "the agent")
    tmux.run("set-option", "-p", "-t", doomed, "remain-on-exit", "on")
    task = home.json("schedule", "60", "too late", "--to", "atlas:doomed")["id"]
    tmux.type(doomed, "exec false")
    until(lambda: liveness(home, "atlas:doomed") == "ENDED", "the end")
    assert home.client("run-now", task).returncode == 0
    until(lambda: home.json("task", task)["state"] == "TASK_STATE_FIRED", "the firing")
    assert home.json("task", task).get("delivery_state") == "DELIVERY_STATE_PENDING"
    assert tmux.run("display-message", "-p", "alive") == "alive"


def test_a_second_heartbeat_in_the_same_pane_supersedes_the_first(
    home: Home, tmux: Tmux, server: Server, heartbeat: Callable[..., Client]
) -> None:
    pane = tmux.pane("atlas", "developer")
    first = heartbeat(pane)
    until(lambda: agent(home, "atlas:developer").get("epoch") == "1", "the first")
    heartbeat(pane)
    status, out = first.wait()
    assert status == 6
    assert re.fullmatch(
        r"orch-client: a newer client of atlas:developer in pane %0 took over;"
        r" this heartbeat ends\.\n",
        out,
    ), out
    assert agent(home, "atlas:developer")["epoch"] == "2"


def test_a_role_held_elsewhere_is_refused_unless_taken_over(
    home: Home, tmux: Tmux, server: Server, heartbeat: Callable[..., Client]
) -> None:
    first = heartbeat(tmux.pane("atlas", "developer"))
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the first")
    other = tmux.pane("atlas", "other")
    status, out = heartbeat(other, "--role", "developer").wait()
    assert status == 6
    assert "atlas:developer is held by a client in pane %0" in out
    heartbeat(other, "--role", "developer", "--take-over")
    assert first.wait()[0] == 6
    until(lambda: agent(home, "atlas:developer")["pane"]["pane_id"] == other, "the take-over")


def test_a_role_whose_holder_is_lost_is_free(
    home: Home, tmux: Tmux, server: Server, heartbeat: Callable[..., Client]
) -> None:
    holder = heartbeat(tmux.pane("atlas", "developer"))
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the first")
    holder.signal(signal.SIGKILL)
    until(lambda: liveness(home, "atlas:developer") == "LOST", "the loss")
    other = tmux.pane("atlas", "other")
    heartbeat(other, "--role", "developer")
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the second")


def test_a_window_name_that_is_no_role_is_explained(
    home: Home, tmux: Tmux, server: Server, heartbeat: Callable[..., Client]
) -> None:
    tmux.pane("atlas", "same")
    pane = tmux.pane("atlas", "same")
    status, out = heartbeat(pane).wait()
    assert (status, "more than one pane" in out, "--role" in out) == (2, True, True), out
    strange = tmux.pane("atlas", "größer |~| ?")
    status, out = heartbeat(strange).wait()
    assert status == 2
    assert "is no role" in out


def test_an_agent_may_not_beat_for_another_pane(home: Home, tmux: Tmux, server: Server) -> None:
    own = tmux.pane("atlas", "developer")
    other = tmux.pane("atlas", "other")
    tmux.type(own, "orch-client heartbeat &")
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the developer")
    tmux.type(own, f'orch-client heartbeat --pane {other} --once; echo "exit=$?"')
    tmux.wait_for(own, "exit=5")
    assert liveness(home, "atlas:other") == ""


def test_the_operator_decides_with_the_passphrase_when_one_is_set(
    home: Home, tmux: Tmux, server: Server
) -> None:
    developer = tmux.pane("atlas", "developer")
    human = tmux.pane("atlas", "human")
    tmux.type(developer, "orch-client heartbeat &")
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the developer")
    tmux.type(human, "orch-server passphrase set")
    for prompt in ("New passphrase: ", "Again: "):
        tmux.wait_for(human, prompt.strip())
        tmux.type(human, "correct horse")
    tmux.wait_for(human, "The passphrase is set")

    tmux.type(developer, 'orch-client authorize --wait "Deploy"; echo "exit=$?"')
    found = until(lambda: home.json("pending"), "the request")[0]["id"]
    _fails(home, 5, "approve", found, says="The operator's passphrase is needed")
    tmux.type(human, f'orch-client approve {found}; echo "first=$?"')
    tmux.wait_for(human, "Operator's passphrase:")
    tmux.type(human, "wrong")
    tmux.wait_for(human, "first=5")
    assert "passphrase is wrong" in tmux.screen(human)
    tmux.type(human, f'orch-client approve {found}; echo "second=$?"')
    until(lambda: tmux.screen(human).count("Operator's passphrase:") == 2, "the prompt")
    tmux.type(human, "correct horse")
    tmux.wait_for(human, "second=0")
    tmux.wait_for(developer, "exit=0")
    assert "correct horse" not in tmux.screen(human)
    claim = "orch-client heartbeat --role orchestrator --once </dev/null"
    fresh = tmux.pane("atlas", "fresh")
    tmux.type(fresh, f'{claim}; echo "claim=$?"')
    tmux.wait_for(fresh, "claim=5")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("orch-client agents >&-", 0),
        ("orch-client agents 2>&-", 0),
        ("orch-client agents <&- >&- 2>&-", 0),
        ("orch-client hook Stop <&-", 1),
        ("echo '{}' | orch-client hook Stop >&-", 1),  # no agent calls
        ("orch-client run -- true >&-", 0),
        ("orch-client run -- sh -c 'exit 3' 2>&-", 3),
        ("orch-client run -- sh -c 'exit 3' <&- >&- 2>&-", 3),
    ],
)
def test_standard_streams_that_are_closed_do_no_harm(
    shared: Home, command: str, status: int
) -> None:
    done = subprocess.run(
        command, shell=True, env=shared.env(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr


def test_commands_are_quick_to_explain_themselves(home: Home) -> None:
    done = home.client("--help")
    assert done.returncode == 0
    assert "ORCH_HOME" in done.stdout
    for command in COMMANDS:
        done = home.client(command, "--help")
        assert done.returncode == 0
        assert "examples:" in done.stdout
    assert os.path.exists(home.path)  # noqa: PTH110


def test_a_token_speaks_for_its_own_agent_only(home: Home, tmux: Tmux) -> None:
    server = Server(home, "--listen", home.address, "--listen", "127.0.0.1:0")
    server.start()
    try:
        port = re.search(r"127\.0\.0\.1:(\d+)", server.ready_line)[1]
        made = ["orch-server", "token", "create", "--session", "atlas", "--role", "developer"]
        token = subprocess.run(
            made, env=home.env(), capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
        tcp = {"ORCH_ADDRESS": f"127.0.0.1:{port}", "ORCH_TOKEN": token}
        asked = home.json("authorize", "Deploy", **tcp)
        assert (asked["session"], asked["requester_role"]) == ("atlas", "developer")
        assert home.client("approve", asked["id"], **tcp).returncode == 5
        assert home.client("agents", **{**tcp, "ORCH_TOKEN": token[:-1]}).returncode == 5
        assert home.client("agents", ORCH_ADDRESS=tcp["ORCH_ADDRESS"]).returncode == 5
        assert home.client("approve", asked["id"]).returncode == 0
    finally:
        server.end()
