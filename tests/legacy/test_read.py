"""The old system is read whole, from real files and a real queue, and nothing of it is touched."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from orch_server.core.errors import InvalidInput
from orch_server.core.legacy import Source
from tests.legacy.parts import Place
from tests.legacy.reading import contents, findings, reading, reasons
from tests.legacy.samples import (
    TASKS,
    session_state,
    task,
    write_queue,
    write_registry,
    write_state,
)

SAMPLE = Path(__file__).parent / "data"
NAME = "atlas-impl-2265b1f5"
_NOBODY = 65534


# Each file of the sample: the session, its agents, phases, metrics and waits.
EXPECTED = {
    "atlas": ("atlas-impl-2265b1f5", 7, 3, 0, 1),
    "billing-service": ("billing-service-impl-5fec898f", 3, 2, 0, 1),
    "data-pipeline": ("data-pipeline-impl-c2557035", 5, 1, 0, 1),
    "extra-fields": ("extra-fields-impl-77", 7, 6, 2, 0),
    "kotori-api": ("kotori-api-impl-c89da11b", 7, 3, 0, 1),
    "minimal": ("minimal-impl-1", 7, 0, 0, 0),
    "mobile_app": ("mobile_app-impl-e927db48", 6, 1, 0, 1),
    "null-session": ("null-session-impl-0", 7, 6, 0, 0),
    "ünïcode-projekt": ("ünïcode-projekt-impl-a17a4340", 7, 6, 0, 0),
}


@pytest.fixture(scope="module")
def sample() -> Source:
    return reading(SAMPLE)


@pytest.mark.parametrize("directory", sorted(EXPECTED))
def test_each_file_of_the_sample_is_read(sample: Source, directory: str) -> None:
    found = next(session for session in sample.sessions if session.directory == directory)
    assert EXPECTED[directory] == (
        found.session.name,
        len(found.agents),
        len(found.phases),
        len(found.metrics),
        sum(agent.waiting is not None for agent in found.agents),
    )
    assert not found.session.name_missing


def test_the_rest_of_the_sample_is_told(sample: Source) -> None:
    assert sample.found == len(EXPECTED) + 2
    assert {session.directory for session in sample.sessions} == set(EXPECTED)
    assert reasons(sample) == {
        "projects/empty": "empty (0 bytes)",
        "projects/truncated": "not whole JSON (Unterminated string starting at: line 1, column 54)",
    }
    assert findings(sample) == (
        "session:null-session-impl-0: session_name is null; the name null-session-impl-0 is known"
        " from elsewhere and used"
    )


def test_the_samples_queue_is_read(sample: Source) -> None:
    assert len(sample.tasks) == 25
    assert {note.every for note in sample.tasks} == {
        None,
        *(timedelta(minutes=minutes) for minutes in (5, 15, 30, 60)),
    }
    assert sample.tasks[3].note == "$(touch /tmp/pwned) `id` ;"
    assert sorted(row.record for row in sample.rows) == [
        *(f"project_queue:{number}" for number in range(1, 7)),
        "scheduler_state:last_boot_time",
    ]
    assert sample.rows[0].session == NAME
    assert len(sample.files) == 12


def test_nothing_of_the_old_system_is_touched(tmp_path: Path) -> None:
    folder = write_registry(tmp_path / "old", 3, messages=1)
    before = contents(folder)
    source = reading(folder)
    assert len(source.sessions) == len(source.messages) == 3
    assert contents(folder) == before


def test_the_registry_alone_may_be_named(tmp_path: Path) -> None:
    folder = write_registry(tmp_path / "old", 2)
    by_repository, by_registry = reading(folder), reading(folder / "registry")
    assert by_repository == by_registry
    assert by_repository.root == str(folder)


def test_the_folder_that_the_user_names_may_be_a_link(tmp_path: Path) -> None:
    folder = write_registry(tmp_path / "old", 1)
    (tmp_path / "link").symlink_to(folder)
    assert reading(tmp_path / "link") == reading(folder)


@pytest.mark.parametrize("name", ["nothing", "empty", "file", "loop", "nul\0"])
def test_a_folder_that_holds_no_old_system_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InvalidInput) as caught:
        reading(tmp_path / name)
    assert caught.value.message.endswith(".")


def test_a_registry_without_projects_and_one_without_a_queue_are_read(tmp_path: Path) -> None:
    (tmp_path / "a" / "registry").mkdir(parents=True)
    assert reading(tmp_path / "a").found == 0
    write_state(tmp_path / "b", "atlas", session_state(NAME))
    assert [s.session.name for s in reading(tmp_path / "b").sessions] == [NAME]
    write_queue(tmp_path / "c", {"tasks": (TASKS, [task(NAME, "tester", 1)])})
    assert len(reading(tmp_path / "c").tasks) == 1


def test_links_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    outside = write_state(tmp_path / "else", "secret", session_state("secret-impl-1"))
    write_state(folder, "good", session_state(NAME))
    projects = folder / "registry" / "projects"
    (projects / "linked-folder").symlink_to(outside.parent)
    (projects / "linked-file").mkdir()
    (projects / "linked-file" / "session_state.json").symlink_to(outside)
    (projects / "fifo").mkdir()
    os.mkfifo(projects / "fifo" / "session_state.json")
    (projects / "folder" / "session_state.json").mkdir(parents=True)
    (projects / "none").mkdir()
    (projects / "a-file").touch()
    (projects / os.fsdecode(b"bad\xff")).mkdir()
    (folder / "task_queue.db").symlink_to(tmp_path / "other.db")
    source = reading(folder)
    assert [session.session.name for session in source.sessions] == [NAME]
    link = "a symbolic link; links are not followed"
    assert reasons(source) == {
        "projects/linked-folder": link,
        "projects/linked-file": link,
        "projects/fifo": "not a regular file",
        "projects/folder": "not a regular file",
        "projects/none": "has no session_state.json",
        "projects/bad\ufffd": "its name is not UTF-8",
        "task_queue.db": link,
    }
    assert source.files == (
        "registry/projects/a-file",
        "registry/projects/good/session_state.json",
    )


def test_a_registry_that_is_a_link_is_refused(tmp_path: Path) -> None:
    outside = write_registry(tmp_path / "else", 1)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "registry").symlink_to(outside / "registry")
    source = reading(tmp_path / "old")
    assert not source.sessions
    assert reasons(source) == {"registry": "a symbolic link; links are not followed"}


def test_a_state_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = write_state(tmp_path, "big", "{}")
    os.truncate(path, 17 * 1024 * 1024)
    assert reasons(reading(tmp_path))["projects/big"].startswith("larger than 16 MiB")


@contextmanager
def unprivileged(folder: Path) -> Iterator[None]:
    """As a user who may not read all files: root becomes another one for a while."""
    user = os.geteuid()
    if user == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, _NOBODY, _NOBODY)
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_what_may_not_be_read_is_told_with_its_whole_path(place: Place) -> None:
    folder = write_registry(place.old, 3)
    registry = folder / "registry"
    (registry / "logs").mkdir()
    (registry / "logs" / "a.log").touch()
    (registry / "closed").mkdir()
    state = registry / "projects" / "project-0" / "session_state.json"
    shut = [
        registry / "logs" / "a.log",
        registry / "closed",
        state,
        registry / "projects" / "project-1",
        folder / "task_queue.db",
    ]
    with unprivileged(place.folder):
        for path in shut:
            path.chmod(0)
        source = reading(folder)
        for path in shut:
            path.chmod(0o700)
    assert len(source.sessions) == 1
    assert source.files == ("registry/projects/project-2/session_state.json",)
    why = "cannot be read: Permission denied"
    assert reasons(source) == {
        "projects/project-0": f"{state} {why}",
        "projects/project-1": f"{registry}/projects/project-1 {why}",
        "task_queue.db": f"{folder}/task_queue.db {why}",
    }
    told = {finding.record: finding.text for finding in source.findings}
    assert told == {
        str(path.relative_to(folder)): f"not in the backup: {path} {why}" for path in shut[:-1]
    }


@pytest.mark.parametrize("directory", [".hidden", "two\nlines", "x" * 201])
def test_a_directory_whose_name_does_not_come_back_is_told(tmp_path: Path, directory: str) -> None:
    write_state(tmp_path, directory, session_state(NAME))
    write_state(tmp_path, "x" * 200, session_state("other-impl-1"))
    source = reading(tmp_path)
    assert len(source.sessions) == 2
    assert findings(source).count("is not given back by an export") == 1
    assert findings(source).startswith(f"session:{NAME}: the name of its directory")


def test_checkouts_are_left_out_of_the_files(tmp_path: Path) -> None:
    write_state(tmp_path, "atlas", session_state(NAME))
    project = tmp_path / "registry" / "projects" / "atlas"
    (project / "worktrees" / "tester").mkdir(parents=True)
    (project / "worktrees" / "tester" / "code.py").touch()
    (project / "link").symlink_to("/etc/passwd")
    (tmp_path / "registry" / "logs").mkdir()
    (tmp_path / "registry" / "logs" / "completions.log").write_text("done")
    source = reading(tmp_path)
    assert source.files == (
        "registry/logs/completions.log",
        "registry/projects/atlas/session_state.json",
    )
    assert "not in the backup: 1 worktrees" in findings(source)
    assert "not in the backup: 1 symbolic links" in findings(source)


def test_the_name_in_the_other_file_of_a_directory_is_used(tmp_path: Path) -> None:
    state = write_state(tmp_path, "atlas", session_state(None))
    state.with_name("orchestration_metadata.json").write_text('{"session_name": "known-impl-1"}')
    broken = write_state(tmp_path, "other", session_state(None))
    broken.with_name("orchestration_metadata.json").write_text('{"session_name"')
    found = [(s.session.name, s.session.name_missing) for s in reading(tmp_path).sessions]
    assert found == [("known-impl-1", False), ("other", True)]


def test_ten_thousand_projects_are_read(tmp_path: Path) -> None:
    folder = write_registry(tmp_path, 10_000, agents=1, tasks=1)
    source = reading(folder)
    assert source.found == len(source.sessions) == len(source.tasks) == 10_000
    assert not source.refused
    assert not source.findings


@contextmanager
def process(*words: str, cwd: Path) -> Iterator[int]:
    """A process that says a line when it is ready and ends with its input."""
    with subprocess.Popen(
        words, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield child.pid
        finally:
            child.kill()


def test_an_old_daemon_is_named(tmp_path: Path) -> None:
    folder = write_registry(tmp_path / "old", 1)
    (folder / "scheduler.py").write_text("print('ready', flush=True)\ninput()")
    with process(sys.executable, "-u", "scheduler.py", "--daemon", cwd=folder) as pid:
        found = [line for line in reading(folder).daemons if line.startswith(f"process {pid}:")]
    assert found == [f"process {pid}: {sys.executable} -u scheduler.py --daemon"]
    assert f"process {pid}:" not in "".join(reading(folder).daemons)


def test_whoever_holds_the_queue_open_is_named(tmp_path: Path) -> None:
    folder = write_registry(tmp_path / "old", 1)
    program = "f = open('task_queue.db'); print('ready', flush=True); input()"
    with process(sys.executable, "-c", program, cwd=folder) as pid:
        found = [line for line in reading(folder).daemons if line.startswith(f"process {pid}:")]
    assert len(found) == 1
    assert found[0].endswith("(holds task_queue.db open)")


def test_an_old_daemon_of_another_user_is_named_with_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_registry(tmp_path / "old", 1)
    me = os.getuid()
    words = ("sh", "-c", "echo ready; read end", "scheduler.py")
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    with process(*words, cwd=folder) as pid:
        found = [line for line in reading(folder).daemons if line.startswith(f"process {pid} ")]
    user = pwd.getpwuid(me).pw_name
    assert found == [f"process {pid} of {user}: sh -c echo ready; read end scheduler.py"]


def test_who_started_the_import_is_not_named(tmp_path: Path) -> None:
    starter = tmp_path / "scheduler.py"
    starter.write_text(
        "import subprocess, sys\n"
        "sys.exit(subprocess.run([sys.executable, '-c', sys.argv[1]], check=False).returncode)"
    )
    program = (
        "from pathlib import Path; import os\n"
        "from orch_server.legacy.daemons import daemons\n"
        "found = ''.join(daemons(Path('/none')))\n"
        "assert f'process {os.getppid()}:' not in found, found"
    )
    run = subprocess.run([sys.executable, str(starter), program], timeout=30, check=False)
    assert run.returncode == 0
