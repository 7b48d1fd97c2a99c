"""Between the API's deliveries and messages and those of the core."""

from __future__ import annotations

from datetime import timedelta

from orch.v1 import delivery_pb2, messaging_pb2
from orch_server.core.delivery import (
    REPORTED,
    TIME_TO_LIVE,
    Delivery,
    DeliveryMode,
    DeliveryState,
    Offer,
    Priority,
    RefusalReason,
    Reply,
    Report,
    Step,
)
from orch_server.core.errors import InvalidInput
from orch_server.services.messaging import Draft, Sent
from orch_server.services.templates import Template
from orch_server.storage.history import Filter
from orch_server.transport.convert import (
    delivery_state,
    duration,
    timestamp,
    to_datetime,
    to_timedelta,
    word,
)

_MODES = {m: delivery_pb2.DeliveryMode.Value(f"DELIVERY_MODE_{m}") for m in DeliveryMode}
_PRIORITIES = {
    delivery_pb2.DELIVERY_PRIORITY_UNSPECIFIED: Priority.NORMAL,
    delivery_pb2.DELIVERY_PRIORITY_NORMAL: Priority.NORMAL,
    delivery_pb2.DELIVERY_PRIORITY_HIGH: Priority.HIGH,
}
_DETAIL = 500
_NONE = timedelta(0)
#: The answer to a call that sent much text to many has the text only so often.
_TEXT_BYTES = 2 * 1024 * 1024


def report(given: delivery_pb2.DeliveryReport) -> Report:
    """A courier's report. Raises InvalidInput when its state is none that a courier can report."""
    state = word(
        delivery_pb2.DeliveryState, "DELIVERY_STATE_", given.state, DeliveryState, "report.state"
    )
    if state not in REPORTED:
        allowed = ", ".join(REPORTED)
        raise InvalidInput("report.state", f"A courier reports one of: {allowed}.")
    return Report(
        given.delivery_id,
        given.sequence,
        given.grant,
        state,
        given.detail[:_DETAIL],
        _reason(given.reason) if state is DeliveryState.REFUSED else RefusalReason.UNSET,
    )


def _reason(given: int) -> RefusalReason:
    """The reason of a refusal; one that a newer client knows counts as none."""
    try:
        return RefusalReason(
            delivery_pb2.RefusalReason.Name(given).removeprefix("REFUSAL_REASON_")  # type: ignore[arg-type]
        )
    except ValueError:
        return RefusalReason.UNSET


def reply(given: delivery_pb2.DeliveryReply) -> Reply:
    """What an agent's screen said."""
    return Reply(given.delivery_id, given.sequence, given.text, given.complete)


def offer(given: Offer) -> delivery_pb2.DeliveryOffer:
    """An offer for a courier."""
    return delivery_pb2.DeliveryOffer(
        delivery_id=given.delivery_id,
        sequence=given.sequence,
        generation=given.generation,
        grant=given.grant,
        text=given.text,
        kind=given.kind,
        tried_before=given.tried_before,
        mode=_MODES[given.mode],
        reply_patience=duration(given.reply_patience) if given.reply_patience else None,
    )


def draft(given: messaging_pb2.SendMessageRequest) -> Draft:
    """A message to be sent. Raises InvalidInput."""
    if given.priority not in _PRIORITIES:
        raise InvalidInput(
            "priority", f"{given.priority} is no priority; use 1 (normal) or 2 (high)."
        )
    mode = word(delivery_pb2.DeliveryMode, "DELIVERY_MODE_", given.mode, DeliveryMode, "mode")
    has = given.HasField
    return Draft(
        targets=tuple(given.targets),
        text=given.text,
        template=given.template,
        parameters=dict(given.parameters),
        plain=given.plain,
        mode=mode or DeliveryMode.WAIT_IDLE,
        priority=_PRIORITIES[given.priority],
        not_before=to_datetime("not_before", given.not_before) if has("not_before") else None,
        time_to_live=to_timedelta("time_to_live", given.time_to_live)
        if has("time_to_live")
        else TIME_TO_LIVE,
        reply_patience=to_timedelta("reply_patience", given.reply_patience),
        request_id=given.request_id,
    )


def sent(given: list[Sent]) -> list[messaging_pb2.SendResult]:
    """The results for the API. When they are more than a message of gRPC may hold, the later ones
    come without the text, which the caller knows."""
    results = []
    room = _TEXT_BYTES
    for one in given:
        result = messaging_pb2.SendResult(target=one.target, error=one.error)
        if one.delivery is not None:
            result.delivery.CopyFrom(delivery(one.delivery))
            room -= len(one.delivery.text.encode())
            if room < 0:
                result.delivery.ClearField("text")
        results.append(result)
    return results


def delivery(given: Delivery) -> delivery_pb2.Delivery:
    """A delivery for the API."""
    reason = given.reason or "UNSPECIFIED"
    return delivery_pb2.Delivery(
        id=given.id,
        agent_id=given.agent_id,
        session=given.session,
        role=given.role,
        origin=given.origin,
        sender=given.sender,
        header=given.header,
        text=given.text,
        mode=_MODES[given.mode],
        priority=delivery_pb2.DeliveryPriority.Value(f"DELIVERY_PRIORITY_{given.priority.name}"),
        state=delivery_state(given.state),
        detail=given.detail,
        reason=delivery_pb2.RefusalReason.Value(f"REFUSAL_REASON_{reason}"),
        attempts=given.attempts,
        create_time=timestamp(given.created_at),
        update_time=timestamp(given.updated_at),
        not_before=timestamp(given.not_before),
        expire_time=timestamp(given.expires_at),
        reply=given.reply,
        reply_time=timestamp(given.reply_at),
        reply_complete=given.reply_complete,
        steps=[_step(one) for one in given.steps],
    )


def wanted(given: messaging_pb2.ListDeliveriesRequest) -> Filter:
    """What to list. Raises InvalidInput."""
    state = word(delivery_pb2.DeliveryState, "DELIVERY_STATE_", given.state, DeliveryState, "state")
    return Filter(given.agent, given.session, state, given.search)


def template(given: Template) -> messaging_pb2.Template:
    """A template for the API."""
    return messaging_pb2.Template(
        name=given.name, text=given.text, parameters=given.parameters, own=given.own
    )


def _step(given: Step) -> delivery_pb2.DeliveryStep:
    return delivery_pb2.DeliveryStep(
        time=timestamp(given.at), step=given.step, detail=given.detail, actor=given.actor
    )
