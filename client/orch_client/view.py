"""The screen of `status` and `top`: GetStatusResponse, width, height and time in, lines out.

Three layouts, the first that fits the height: a line for each agent; a cell for each agent; and a
cell only for those who need somebody, with a short summary of the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import agent_pb2
from orch.v1 import session_state_pb2 as pb
from orch_client import output
from orch_client.lines import Line, Span, cells, clip, flow, grid, padded, plain, spaced

_S = agent_pb2.AgentState
_STATE_STYLES: dict[int, str] = {
    agent_pb2.AGENT_STATE_STARTING: "new",
    agent_pb2.AGENT_STATE_WORKING: "good",
    agent_pb2.AGENT_STATE_IDLE: "calm",
    agent_pb2.AGENT_STATE_WAITING_PERMISSION: "warn",
    agent_pb2.AGENT_STATE_WAITING_ANSWER: "warn",
    agent_pb2.AGENT_STATE_USAGE_LIMITED: "limit",
    agent_pb2.AGENT_STATE_AUTH_FAILED: "bad",
    agent_pb2.AGENT_STATE_DEAD: "bad",
    agent_pb2.AGENT_STATE_HUNG: "bad",
}
#: Those in these states need a person; the gravest first.
_NEEDY: tuple[int, ...] = (
    agent_pb2.AGENT_STATE_AUTH_FAILED,
    agent_pb2.AGENT_STATE_DEAD,
    agent_pb2.AGENT_STATE_HUNG,
    agent_pb2.AGENT_STATE_WAITING_PERMISSION,
    agent_pb2.AGENT_STATE_WAITING_ANSWER,
    agent_pb2.AGENT_STATE_USAGE_LIMITED,
)
_STATES: dict[int, str] = {value: output.word(name, "AGENT_STATE_") for name, value in _S.items()}
_STATES[agent_pb2.AGENT_STATE_UNSPECIFIED] = "unknown"
_PHASES: dict[int, str] = {value: output.word(name, "PHASE_") for name, value in pb.Phase.items()}
_PLANS: dict[int, str] = {value: output.word(name, "PLAN_") for name, value in pb.Plan.items()}
_WELL = (agent_pb2.AGENT_STATE_WORKING, agent_pb2.AGENT_STATE_STARTING, agent_pb2.AGENT_STATE_IDLE)
_ORDER = {state: place for place, state in enumerate((*_NEEDY, *_WELL))}
_CLIENTS = {
    agent_pb2.LIVENESS_UNMANAGED: ("quiet", "no client"),
    agent_pb2.LIVENESS_SUSPECT: ("warn", "client silent"),
    agent_pb2.LIVENESS_LOST: ("bad", "client lost"),
    agent_pb2.LIVENESS_ENDED: ("quiet", "client ended"),
    agent_pb2.LIVENESS_UNKNOWN: ("quiet", "client not heard yet"),
}
_ENDS: dict[int, str] = {pb.COMPLETION_COMPLETED: "completed", pb.COMPLETION_FAILED: "failed"}
_FRESH = 60.0  # seconds after which evidence is doubted
_OPEN_MODE = "OPEN MODE: anyone local may approve; close it with 'orch-server passphrase set'"


def screen(
    answer: pb.GetStatusResponse, now: float, width: int | None = None, height: int | None = None
) -> list[Line]:
    """All lines, none wider than `width` cells; at `now`, in seconds since the epoch. Where no
    layout fits into `height` lines there are more."""
    head = _head(answer, now, width)
    teams = [_Team(session) for session in answer.sessions]
    teams.sort(key=lambda team: (team.ended, not team.needy))
    if not teams:
        body = [[("quiet", "No sessions yet; run 'orch-client heartbeat' in a tmux pane.")]]
        return [clip(line, width) for line in head + body]
    lines: list[Line] = []
    for layout in (_in_rows, _in_cells, _in_short):
        lines = [clip(line, width) for line in [*head, [], *layout(teams, now, width)]]
        if height is None or len(lines) <= height:
            break
    return lines


# ---- the head ----


def _head(answer: pb.GetStatusResponse, now: float, width: int | None) -> list[Line]:
    alive = [s for s in answer.sessions if s.completion not in _ENDS]
    states: Counter[int] = Counter(a.state for session in alive for a in session.agents)
    needy = sum(states[state] for state in _NEEDY)
    first: list[Line] = [
        [("title", f"tmux-orchestrator {_flat(answer.server_version, 20)}")],
        [("", _count(len(alive), "session"))],
        [("", _count(states.total(), "agent"))],
        *([part] for part in _summary(states)),
    ]
    if needy:
        first.insert(3, [("bad", f"{needy} need{'s' if needy == 1 else ''} somebody:")])
    second: list[Line] = [[span] for span in _matters(answer)]
    lines = [*flow(first, width), *flow(second, width)]
    if answer.open_mode:
        lines += flow([[("bad", word)] for word in _OPEN_MODE.split()], width, " ")
    return lines


def _matters(answer: pb.GetStatusResponse) -> Iterable[Span]:
    """What of the server somebody should know."""
    if answer.recent_alerts:
        yield "warn", f"{_count(answer.recent_alerts, 'alert')} within the hour"
    if answer.pending_authorizations:
        asked = f"{_count(answer.pending_authorizations, 'request')} pending"
        yield "warn", asked
        if answer.pending_for_human:
            yield "bad", f"{answer.pending_for_human} for a human"
    if answer.mismatches:
        yield "warn", f"{answer.mismatches} differ{'' if answer.mismatches > 1 else 's'} from tmux"
    if answer.scheduler_paused:
        yield "warn", "all notes are paused"
    if answer.ended_sessions:
        yield "quiet", f"{answer.ended_sessions} ended, see --all"


def _summary(states: Counter[int]) -> list[Span]:
    """How many are in each state, the gravest first."""
    found = sorted(states, key=lambda state: _ORDER.get(state, len(_ORDER)))
    return [(_style(state), f"{states[state]} {_word(state)}") for state in found if states[state]]


# ---- sessions ----


class _Team:
    """A session with its agents, those who need somebody first."""

    def __init__(self, session: pb.Session) -> None:
        self.session = session
        self.name = _flat(session.name, 200)
        self.ended = session.completion in _ENDS
        self.agents = [] if self.ended else sorted(session.agents, key=_importance)
        self.needy = [agent for agent in self.agents if agent.state in _NEEDY]

    @property
    def head(self) -> Span:
        """Its name."""
        return ("quiet" if self.ended else "title"), self.name


def _importance(agent: agent_pb2.Agent) -> tuple[bool, str]:
    return agent.state not in _NEEDY, agent.role


def _in_rows(teams: list[_Team], now: float, width: int | None) -> list[Line]:
    """A line for each session and each agent, in columns."""
    states = {id(agent): _state(agent, now) for team in teams for agent in team.agents}
    roles = max((cells(a.role) for team in teams for a in team.agents), default=0)
    if width is not None:
        roles = min(roles, max(8, width // 3))
    longest = max((cells(state) for _, state in states.values()), default=0)
    lines: list[Line] = []
    for team in teams:
        lines.append(spaced([team.head, *_facts(team, now)]))
        reports = {report.role: report for report in team.session.status_reports}
        for agent in team.agents:
            style, state = states[id(agent)]
            mark = ("bad", "! ") if agent.state in _NEEDY else ("", "  ")
            role = plain(clip([("", _flat(agent.role, 64))], roles))
            spans = [padded(("", role), roles), padded((style, state), longest)]
            more = _more(agent, reports.get(agent.role), now)
            lines.append([mark, *spaced([*spans, *more])])
    return lines


def _in_cells(teams: list[_Team], now: float, width: int | None) -> list[Line]:
    """A paragraph for each session, a cell for each agent."""
    lines: list[Line] = []
    for team in teams:
        team_cells = [[_cell_of(agent, now)] for agent in team.agents]
        facts = [] if team.agents else [[fact] for fact in _facts(team, now)]
        lines += flow([[team.head], *facts, *team_cells], width)
    return lines


def _in_short(teams: list[_Team], now: float, width: int | None) -> list[Line]:
    """A paragraph for each session in which somebody is needed; the others side by side."""
    lines: list[Line] = []
    quiet: list[Line] = []
    for team in teams:
        others: Counter[int] = Counter(a.state for a in team.agents if a.state not in _NEEDY)
        summary = _summary(others)
        if team.needy:
            needy = [[_cell_of(agent, now)] for agent in team.needy]
            lines += flow([[team.head], *needy, *([part] for part in summary)], width)
        else:
            said = summary or [("quiet", _end(team) or "no agents")]
            quiet.append(spaced([team.head, *said], " "))
    return lines + grid(quiet, width)


def _facts(team: _Team, now: float) -> list[Span]:
    """What a session is at."""
    session, facts = team.session, []
    ended = _end(team)
    if ended:
        facts.append(("quiet", f"{ended} {_ago(session.completion_time, now)}".rstrip()))
        if session.failure_reason:
            facts.append(("quiet", _flat(session.failure_reason, 100)))
        return facts
    if session.phase:
        facts.append(("", _PHASES.get(session.phase, "")))
    if session.plan:
        facts.append(("quiet", _PLANS.get(session.plan, "")))
    if session.completed_phases:
        last = session.completed_phases[-1]
        facts.append(("quiet", f"{_flat(last.name)} done {_ago(last.end_time, now)}".rstrip()))
    if session.name_missing:
        facts.append(("warn", "its tmux session is not known"))
    if not session.agents:
        facts.append(("quiet", "no agents"))
    return facts


def _end(team: _Team) -> str:
    """ "completed" or "failed"; "" while the work goes on."""
    return _ENDS.get(team.session.completion, "")


# ---- agents ----


def _state(agent: agent_pb2.Agent, now: float) -> Span:
    """Such as "idle 3m", or "working? 5m" when nothing has told so for a minute."""
    age = _ago(agent.state_change_time, now).removesuffix(" ago")
    if _word(agent.state) == "unknown":
        age = ""
    return _style(agent.state), f"{_word(agent.state)}{_doubt(agent, now)} {age}".rstrip()


def _doubt(agent: agent_pb2.Agent, now: float) -> str:
    if agent.state == agent_pb2.AGENT_STATE_DEAD or not agent.HasField("evidence"):
        return ""
    if _word(agent.state) == "unknown":
        return ""
    return "?" if now - _seconds(agent.evidence.observe_time) > _FRESH else ""


def _cell_of(agent: agent_pb2.Agent, now: float) -> Span:
    mark = "!" if agent.state in _NEEDY else ""
    state = f"{_word(agent.state)}{_doubt(agent, now)}"
    return _style(agent.state), f"{mark}{_flat(agent.role, 64)}:{state}"


def _more(agent: agent_pb2.Agent, report: pb.StatusReport | None, now: float) -> Iterable[Span]:
    """What else is to be known of an agent."""
    client = _CLIENTS.get(agent.liveness)
    if client is not None:
        style, text = client
        since = "" if style == "quiet" else _ago(agent.liveness_change_time, now)
        yield style, f"{text} {since.removesuffix(' ago')}".rstrip()
    if agent.HasField("waiting_for"):
        asked = agent.waiting_for
        wait = (asked.authorization_id or asked.dependency_id)[:8]
        since = _ago(asked.since, now).removesuffix(" ago")
        yield "warn", f"waits for {_flat(asked.role)}: {_flat(asked.reason)} {wait} {since}"
    if agent.HasField("hold_end_time"):
        yield "limit", f"held, ends {_ago(agent.hold_end_time, now)}"
    if agent.do_not_disturb:
        yield "quiet", "do not disturb"
    if agent.HasField("operation"):
        ends = _ago(agent.operation.end_time, now)
        yield "new", f"busy with {_flat(agent.operation.reason)}, ends {ends}"
    if report is not None:
        said = f"{_flat(report.topic)} {_flat(report.status)} {_ago(report.report_time, now)}"
        yield "quiet", said.rstrip()


def _style(state: int) -> str:
    return _STATE_STYLES.get(state, "quiet")


def _word(state: int) -> str:
    return _STATES.get(state, "unknown")


# ---- texts ----


def _flat(text: str, limit: int = 60) -> str:
    """Text of others, on one line and without control characters."""
    return output.one_line(text, limit)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _seconds(at: Timestamp) -> float:
    return float(at.seconds + at.nanos / 1e9)


def _ago(at: Timestamp, now: float) -> str:
    """ "3m ago" or "in 5m"; "" when not set."""
    return output.apart(_seconds(at) - now) if at.seconds else ""
