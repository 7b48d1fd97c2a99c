"""What people read of authorizations. Text of others is shown to the last character: what does not
print is shown as its escape, so that nothing of it acts on the terminal and nothing of it hides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from orch_client import output

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

    from orch.v1 import authorization_pb2 as pb

#: Within which a decision should come, on the average.
_TARGET_SECONDS = 600


def state(found: pb.Authorization) -> str:
    """What became of it."""
    from orch.v1 import authorization_pb2 as pb

    return output.word(pb.AuthorizationState.Name(found.state), "AUTHORIZATION_STATE_")


def visible(text: str) -> str:
    """All of the text; what does not print, but for line breaks, as its escape."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


# ---- many ----


def print_pending(found: Iterable[pb.Authorization]) -> None:
    """A table of those that wait, in the order in which they come."""
    rows = [_row(one, [], output.moment(one.deadline)) for one in found]
    head = ("ID", "FROM", "PRIORITY", "TO", "EXPIRES", "CLASS", "ACTION")
    output.print_table(head, rows, "Nothing waits for a decision.")


def print_all(found: Iterable[pb.Authorization]) -> None:
    """A table of them, with the state of each and since when it has been in it."""
    rows = [_row(one, [state(one)], output.moment(_since(one))) for one in found]
    head = ("ID", "STATE", "FROM", "PRIORITY", "TO", "SINCE", "CLASS", "ACTION")
    output.print_table(head, rows, "There is no such request.")


def _row(one: pb.Authorization, states: Sequence[str], when: str) -> Sequence[str]:
    return (
        one.id,
        *states,
        f"{one.session}:{one.requester_role}",
        _priority(one),
        one.approver_role,
        when,
        _class(one),
        output.one_line(one.action),
    )


def _since(one: pb.Authorization) -> Timestamp:
    times = (one.close_time, one.resolve_time, one.create_time)
    return next((at for at in times if at.seconds), one.create_time)


def _class(one: pb.Authorization) -> str:
    """The class, unless it is the ordinary one, and what an approval takes."""
    takes = ["human"] if one.human_required else []
    takes += ["reason"] if one.reason_required else []
    name = "" if one.action_class == "routine" and not takes else one.action_class
    return f"{name} ({', '.join(takes)})" if takes else name or "-"


def _priority(one: pb.Authorization) -> str:
    from orch.v1 import authorization_pb2 as pb

    name = pb.AuthorizationPriority.Name(one.priority)
    derived = " (derived)" if one.priority_derived else ""
    return output.word(name, "AUTHORIZATION_PRIORITY_") + derived


# ---- one ----


def print_one(found: pb.Authorization) -> None:
    """All that is known of one, a line for each field; further lines of a field are indented."""
    is_pending = state(found) == "pending"
    _print_fields(
        (
            ("id", found.id),
            ("state", state(found)),
            ("action", visible(found.action)),
            ("tool", _on_one_line(found.bound_action.tool)),
            ("arguments", _arguments(found)),
            ("folder", _on_one_line(found.bound_action.cwd)),
            ("from", f"{found.session}:{found.requester_role}"),
            ("to", found.approver_role),
            ("priority", _priority(found)),
            ("class", found.action_class),
            ("needs", _needs(found)),
            ("approvers", ", ".join(found.approvers)),
            ("levels", "\n".join(_levels(found))),
            ("asked", output.moment(found.create_time)),
            ("expires", output.moment(found.deadline) if is_pending else ""),
            ("resolved", output.moment(found.resolve_time)),
            ("by", found.resolver),
            ("proof", _proof(found)),
            ("reason", visible(found.reason)),
            ("lapses", output.moment(found.lapse_time) if state(found) == "approved" else ""),
            (state(found), output.moment(found.close_time)),
            ("digest", found.digest),
        )
    )


def _print_fields(fields: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, value in fields if value)
    indented = f"\n{' ' * (width + 2)}"
    output.print_fields([(name, value.replace("\n", indented)) for name, value in fields])


def _on_one_line(text: str) -> str:
    return visible(text).replace("\n", "\\n")


def _arguments(found: pb.Authorization) -> str:
    """What the tool is given, in full; nothing for an action in words, which is shown as it is."""
    bound = found.bound_action
    return _on_one_line(bound.arguments) if bound.tool or bound.arguments != found.action else ""


def _needs(found: pb.Authorization) -> str:
    human = "a human who approves it, with the passphrase if there is one"
    needs = [human] if found.human_required else []
    return ", and ".join(needs + (["a reason"] if found.reason_required else []))


def _levels(found: pb.Authorization) -> Iterable[str]:
    """Who is told when nobody decides, and when: a line for each."""
    width = max((len(one.receiver) for one in found.levels), default=0)
    is_open = state(found) == "pending"
    for one in found.levels:
        if one.HasField("tell_time"):
            what = "passed over, no such agent" if one.passed_over else "reached"
            when = f"{what} {output.moment(one.tell_time)}"
        else:
            when = f"due {output.moment(one.due_time)}" if is_open else "not reached"
        yield f"{one.receiver.ljust(width)}  {when}"


def _proof(found: pb.Authorization) -> str:
    from orch.v1 import authorization_pb2 as pb

    return {
        pb.DECISION_PROOF_ROLE: "by its role",
        pb.DECISION_PROOF_PASSPHRASE: "by the passphrase",
        pb.DECISION_PROOF_OPEN_MODE: "none: the server has no passphrase (open mode)",
    }.get(found.proof, "")


# ---- figures over time ----


def print_stats(found: pb.GetAuthorizationStatsResponse) -> None:
    """A table: all, by priority, by who decided; and how that compares with the target."""
    print(f"Since {output.moment(found.start_time)}:")
    rows = [
        _figures("all", found.all),
        *(_figures(f"priority {one.name}", one) for one in found.by_priority),
        *(_figures(f"by {output.one_line(one.name)}", one) for one in found.by_resolver),
    ]
    counts = ("REQUESTS", "APPROVED", "DENIED", "EXPIRED", "WITHDRAWN", "PENDING", "ESCALATED")
    output.print_table(("", *counts, "MEAN", "MEDIAN", "P95"), rows, "")
    print(_beside_target(found.all))


def _figures(name: str, one: pb.AuthorizationStats) -> Sequence[str]:
    counts = (
        one.requests,
        one.approved,
        one.denied,
        one.expired,
        one.cancelled,
        one.pending,
        one.escalated,
    )
    was_decided = one.HasField("mean")
    times = (one.mean, one.median, one.p95)
    return (name, *map(str, counts), *(_in_words(t) if was_decided else "-" for t in times))


def _in_words(took: Duration) -> str:
    """How long something took, such as "3.2s", "42s", "4m 10s" or "2h 05m"."""
    seconds = _seconds(took)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def _beside_target(every: pb.AuthorizationStats) -> str:
    target = f"the target of {_TARGET_SECONDS // 60}m"
    if not every.HasField("mean"):
        return f"Nothing was decided that could be held against {target}."
    is_met = _seconds(every.mean) <= _TARGET_SECONDS
    return (
        f"A decision took {_in_words(every.mean)} on the average;"
        f" {target} {'is met' if is_met else 'is not met'}."
    )


def _seconds(took: Duration) -> float:
    return float(took.seconds + took.nanos / 1e9)
