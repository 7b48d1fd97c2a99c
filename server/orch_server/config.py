"""Settings: flags over environment over config.toml over defaults. The only reader of os.environ
and of the configuration file; each error names the key, the value and the cure."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orch_server.core.errors import InvalidInput, StartupError
from orch_server.core.pace import Pace
from orch_server.core.policy import Policy
from orch_server.core.task import MAX_OPEN, MOST_OPEN
from orch_server.core.text import check_role
from orch_server.policy_file import policy

_KEYS = (
    "listen",
    "approver_roles",
    "authorization",
    "beat_interval",
    "log_level",
    "nudges_per_hour",
    "alert_webhook",
    "max_open_tasks",
    "audit_days",
    "history_days",
)
_LEVELS = ("debug", "info", "warning", "error")
_LOOPBACK = re.compile(r"(localhost|127(?:\.\d{1,3}){3}|\[::1\]):(\d{1,5})\Z")
_NETWORK = frozenset("nfs nfs4 cifs smb3 smbfs 9p fuse.sshfs ceph glusterfs afs".split())  # noqa: SIM905
_OWN_FILES = ("orch", "tokens", "passphrase", "backups", "logs", "audit")
MAX_SOCKET_PATH = 107


@dataclass(frozen=True, slots=True)
class Settings:
    """All that can be set. `sockets` are Unix sockets, `ports` are loopback HOST:PORT, `templates`
    is the folder with the user's own templates of messages, `nudges_per_hour` the budget of each
    agent (0: none are sent), `alert_webhook` the URL that alerts are posted to ("": none),
    `max_open_tasks` how many open tasks an agent may have, `audit_days` how long links of the audit
    are kept (0: for ever), `history_days` how long events, decided requests and texts that went
    their way are (0: for ever), `default_tmux` the socket that `tmux` without options uses."""

    home: Path
    sockets: tuple[Path, ...]
    ports: tuple[str, ...]
    policy: Policy
    pace: Pace
    log_level: str
    templates: Path
    default_tmux: str
    nudges_per_hour: int = 6
    alert_webhook: str = ""
    max_open_tasks: int = MAX_OPEN
    audit_days: int = 400
    history_days: int = 90

    @property
    def database(self) -> Path:
        """The database file."""
        return self.home / "orch.db"

    @property
    def backups(self) -> Path:
        """The folder with the backups."""
        return self.home / "backups"

    @property
    def passphrase(self) -> Path:
        """The file with the hash of the operator's passphrase."""
        return self.home / "passphrase"

    @property
    def tokens(self) -> Path:
        """The folder with the tokens."""
        return self.home / "tokens"


def default_home(environ: Mapping[str, str]) -> Path:
    """ORCH_HOME, else `orch` under the XDG state directory."""
    if environ.get("ORCH_HOME"):
        home = Path(environ["ORCH_HOME"])
        if not home.is_absolute():
            raise StartupError(f"ORCH_HOME is '{home}'; use an absolute path.")
        return home
    state = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "orch"


def config_file(environ: Mapping[str, str]) -> Path:
    """ORCH_CONFIG, else `orch/config.toml` under the XDG configuration directory."""
    if environ.get("ORCH_CONFIG"):
        return Path(environ["ORCH_CONFIG"])
    base = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "orch" / "config.toml"


def tmux_socket() -> str:
    """The tmux socket that this process believes to live under; "" outside tmux."""
    return os.environ.get("TMUX", "").partition(",")[0]


def load(
    home: str | None = None,
    listen: list[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Reads everything and checks it. Raises StartupError."""
    env = os.environ if environ is None else environ
    path = Path(home).absolute() if home else default_home(env)
    configured = config_file(env)
    kept = _read(configured, required=bool(env.get("ORCH_CONFIG")))
    listening = listen or kept.get("listen") or [f"unix:{path / 'orch.sock'}"]
    sockets, ports = _addresses(listening)
    if not sockets:  # the clients of this host need one
        sockets = (path / "orch.sock",)
    for socket in sockets:
        _check_socket(socket)
    return Settings(
        home=path,
        sockets=sockets,
        ports=ports,
        policy=policy(
            kept.get("authorization", {}),
            _roles(kept.get("approver_roles", ["orchestrator", "project_manager"])),
        ),
        pace=_pace(kept.get("beat_interval", 5)),
        log_level=_level(env.get("ORCH_LOG_LEVEL") or kept.get("log_level", "info")),
        templates=configured.absolute().parent / "templates",
        default_tmux=_default_tmux(env),
        nudges_per_hour=_nudges(kept.get("nudges_per_hour", 6)),
        alert_webhook=_webhook(kept.get("alert_webhook", "")),
        max_open_tasks=_open_tasks(kept.get("max_open_tasks", MAX_OPEN)),
        audit_days=_days("audit_days", kept.get("audit_days", 400), "the audit"),
        history_days=_days("history_days", kept.get("history_days", 90), "the history"),
    )


def _default_tmux(environ: Mapping[str, str]) -> str:
    """Where tmux has it: below TMUX_TMPDIR, and below /tmp when that is not there."""
    given = Path(environ.get("TMUX_TMPDIR") or "/tmp")  # noqa: S108 - as tmux does
    try:
        folder = given.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        folder = Path("/tmp")  # noqa: S108
    return str(folder / f"tmux-{os.getuid()}" / "default")


def check_home(settings: Settings) -> None:
    """Makes ORCH_HOME and the sockets' folders private.

    Raises StartupError when they are not ours, are open to others and hold other things, or lie on
    a network file system.
    """
    home = settings.home
    for folder in (home, *(socket.parent for socket in settings.sockets)):
        try:
            _make_private(folder)
        except OSError as exc:
            raise StartupError(
                f"The folder {folder} cannot be used ({exc.strerror}); set ORCH_HOME to a folder"
                " that this user can write."
            ) from exc
    kind = _file_system(home)
    if kind in _NETWORK:
        raise StartupError(
            f"ORCH_HOME {home} is on a network file system ({kind}), where SQLite's log does not"
            " work; set ORCH_HOME to a local folder."
        )


def _make_private(folder: Path) -> None:
    """Gives the folder the mode 0700, if nothing but our own files would be closed by that."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid():
        raise StartupError(f"The folder {folder} belongs to another user; choose one of yours.")
    if status.st_mode & 0o077 == 0:
        return
    if any(not entry.name.startswith(_OWN_FILES) for entry in folder.iterdir()):
        raise StartupError(
            f"The folder {folder} is open to other users and holds other files; choose a folder of"
            f" its own for ORCH_HOME, or close this one: chmod 700 {folder}"
        )
    folder.chmod(0o700)


def _read(path: Path, required: bool) -> dict[str, Any]:
    try:
        kept = tomllib.loads(path.read_text())
    except FileNotFoundError as exc:
        if required:
            raise StartupError(
                f"ORCH_CONFIG names {path}, and there is no such file; create it, or unset"
                " ORCH_CONFIG."
            ) from exc
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise StartupError(f"The configuration {path} cannot be read: {exc}.") from exc
    unknown = sorted(set(kept) - set(_KEYS))
    if unknown:
        raise StartupError(
            f"The configuration {path} has an unknown key '{unknown[0]}'; known are:"
            f" {', '.join(_KEYS)}."
        )
    return kept


def _addresses(listening: object) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    if not isinstance(listening, list) or not all(isinstance(a, str) for a in listening):
        raise StartupError('listen must be a list of texts, such as ["unix:/PATH"].')
    sockets, ports = [], []
    for address in listening:
        if address.startswith("unix:/"):
            sockets.append(Path(address.removeprefix("unix:")))
            continue
        match = _LOOPBACK.match(address)
        if match is None or int(match[2]) > 65535:
            raise StartupError(
                f"'{address}' is no address to listen on; use unix:/PATH, or HOST:PORT with a"
                " loopback host (127.0.0.1, [::1], localhost). Beyond loopback needs TLS, which is"
                " not there yet."
            )
        ports.append(address)
    return tuple(sockets), tuple(ports)


def _check_socket(path: Path) -> None:
    longest = path.with_name(f"{path.stem}-id.sock")
    length = len(os.fsencode(longest))
    if length > MAX_SOCKET_PATH:
        raise StartupError(
            f"The socket path {longest} has {length} bytes, but a Unix socket's may have at most"
            f" {MAX_SOCKET_PATH}; set ORCH_HOME (or --listen unix:/PATH) to a shorter path."
        )
    if path.exists() and not path.is_socket():
        raise StartupError(f"{path} exists and is no socket; move it away or listen elsewhere.")


def _roles(given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or not given or not all(isinstance(r, str) for r in given):
        raise StartupError('approver_roles must be a list of roles, such as ["orchestrator"].')
    try:
        return tuple(check_role("approver_roles", role) for role in given)
    except InvalidInput as exc:
        raise StartupError(f"approver_roles: {exc.message}") from exc


def _pace(beat: object) -> Pace:
    if isinstance(beat, bool) or not isinstance(beat, int | float) or not 0.05 <= beat <= 300:
        raise StartupError(f"beat_interval is {beat!r}; use a number of seconds from 0.05 to 300.")
    return Pace(beat=float(beat), lease=3 * float(beat), grace=min(0.75, float(beat)))


def _nudges(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= 60:
        raise StartupError(f"nudges_per_hour is {given!r}; use a whole number from 0 to 60.")
    return given


def _open_tasks(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_OPEN:
        raise StartupError(
            f"max_open_tasks is {value!r}; use a whole number from 1 to {MOST_OPEN}, the open tasks"
            " that one agent may have."
        )
    return value


def _days(key: str, given: object, what: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= 36_500:
        raise StartupError(
            f"{key} is {given!r}; use a whole number of days from 1 to 36500, or 0 to keep {what}"
            " for ever."
        )
    return given


def _webhook(given: object) -> str:
    if given == "":
        return ""
    if isinstance(given, str) and _is_url(given):
        return given
    raise StartupError(  # which is not shown, since it may hold a secret
        "alert_webhook is no URL; use one such as https://example.org/hook, or leave it away."
    )


def _is_url(given: str) -> bool:
    try:
        parts = urlsplit(given)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a port above 65535
        return False


def _level(given: object) -> str:
    level = str(given).lower()
    if level not in _LEVELS:
        raise StartupError(f"log_level is '{given}'; use one of: {', '.join(_LEVELS)}.")
    return level


def _file_system(path: Path) -> str:
    """The type of the file system that holds the path; "" when it cannot be told."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        mount, _, rest = line.partition(" - ")
        point = mount.split()[4].replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, rest.split()[0]
    return kind
