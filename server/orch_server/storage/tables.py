"""The tables as peewee models. They are bound to no database: each query is executed on the
connection that the store hands out, so that nothing is global.

storage/migrations/ makes the tables; a test compares them with these models. Times are integers in
the store (microseconds since 1970, UTC) and datetimes outside of it. Each row has a number, which
keeps the order of arrival, and an id, which is what people and the API see.
"""

from __future__ import annotations

from peewee import BigIntegerField, BooleanField, IntegerField, Model, TextField

from orch_server.core.agent import Liveness
from orch_server.core.agent_state import AgentState, EvidenceSource
from orch_server.core.alert import Severity
from orch_server.core.authorization import AuthorizationState, Proof
from orch_server.core.delivery import DeliveryMode, DeliveryState, RefusalReason
from orch_server.core.schedule import Form, Missed
from orch_server.core.supervision import Matter, NotSent, NudgeReason
from orch_server.core.task import Outcome, Reason, TaskState
from orch_server.storage.columns import Row, SpanField, TimeField, WordField
from orch_server.storage.session_tables import SESSION_MODELS


class StoreRow(Model):
    """The one row that describes the store itself."""

    only = IntegerField(primary_key=True)
    generation = TextField()
    token_key = TextField()
    offer_sequence = IntegerField()

    class Meta:
        table_name = "store"


class EventRow(Row):
    """One change; the number is the event's own."""

    at = TimeField()
    kind = TextField()
    subject = TextField()
    session = TextField()
    agent = TextField()
    actor = TextField()
    detail = TextField()

    class Meta:
        table_name = "event"


class AgentRow(Row):
    """One role in one session, and the incarnation of the pane it lives in."""

    id = TextField(unique=True)
    session = TextField()
    role = TextField()
    kind = TextField()
    host = TextField()
    tmux_socket = TextField()
    tmux_server_pid = IntegerField()
    tmux_server_started = IntegerField()
    pane = TextField()
    pane_pid = IntegerField()
    epoch = IntegerField()
    liveness = WordField(Liveness)
    liveness_changed_at = TimeField()
    last_check_in_at = TimeField(null=True)
    client_version = TextField()
    created_at = TimeField()
    do_not_disturb = BooleanField()
    courier = BooleanField()
    credential = TextField()

    class Meta:
        table_name = "agent"


class DeliveryRow(Row):
    """One text on its way into one pane. `sequence` and `offered_to` belong to the last offer.

    `time_to_live` and `reply_patience` are microseconds. The table delivery_search, which triggers
    fill, indexes header and text.
    """

    id = TextField(unique=True)
    agent_id = TextField()
    text = TextField()
    origin = TextField()
    dedupe_key = TextField(unique=True)
    priority = IntegerField()
    state = WordField(DeliveryState)
    detail = TextField()
    sequence = IntegerField()
    offer_epoch = IntegerField()
    offered_to = TextField()
    refusals = IntegerField()
    not_before = TimeField()
    expires_at = TimeField()
    created_at = TimeField()
    updated_at = TimeField()
    sender = TextField()
    header = TextField()
    mode = WordField(DeliveryMode)
    message_key = TextField()
    reason = WordField(RefusalReason)
    attempts = IntegerField()
    retry_at = TimeField()
    time_to_live = BigIntegerField()
    reply_patience = BigIntegerField()
    reply = TextField()
    reply_at = TimeField(null=True)
    reply_complete = BooleanField()

    class Meta:
        table_name = "delivery"


class TaskRow(Row):
    """A scheduled note. `every`, `jitter` and `catch_up` are microseconds; `look_at` is when the
    firing loop looks at it, which a pause or a usage limit may put off beyond `due_at`."""

    id = TextField(unique=True)
    agent_id = TextField()
    note = TextField()
    due_at = TimeField()
    state = WordField(TaskState)
    creator = TextField()
    created_at = TimeField()
    fired_at = TimeField(null=True)
    delivery_id = TextField(null=True)
    request_id = TextField(null=True, unique=True)
    form = WordField(Form)
    every = BigIntegerField()
    cron = TextField()
    time_zone = TextField()
    jitter = BigIntegerField()
    end_at = TimeField(null=True)
    first_at = TimeField()
    next_at = TimeField(null=True)
    look_at = BigIntegerField()
    catch_up = BigIntegerField()
    missed = WordField(Missed)
    mode = WordField(DeliveryMode)
    version = IntegerField()
    note_key = BigIntegerField()
    deferred_from = TimeField(null=True)
    deferred_to = TimeField(null=True)
    waited = BooleanField()
    paused_at = TimeField(null=True)
    paused_by = TextField()
    pause_note = TextField()

    class Meta:
        table_name = "task"


class OccurrenceRow(Row):
    """What became of one planned firing of a task."""

    task_id = TextField()
    nominal_at = TimeField()
    outcome = WordField(Outcome)
    reason = WordField(Reason)
    decided_at = TimeField()
    delivery_id = TextField(null=True)
    request_id = TextField(null=True)

    class Meta:
        table_name = "occurrence"


class SchedulerRow(Model):
    """The one row that says whether all firing is paused."""

    only = IntegerField(primary_key=True)
    paused_at = TimeField(null=True)
    paused_by = TextField()
    pause_note = TextField()

    class Meta:
        table_name = "scheduler"


class TaskLoadRow(Model):
    """How many open tasks an agent has; triggers keep it."""

    agent_id = TextField(primary_key=True)
    open_tasks = IntegerField()

    class Meta:
        table_name = "task_load"


class AuthorizationRow(Row):
    """A request for leave to act."""

    id = TextField(unique=True)
    agent_id = TextField()
    session = TextField()
    requester_role = TextField()
    requester_pane = TextField()
    approver_role = TextField()
    action = TextField()
    priority = IntegerField()
    priority_derived = BooleanField()
    state = WordField(AuthorizationState)
    created_at = TimeField()
    deadline_at = TimeField()
    resolved_at = TimeField(null=True)
    resolver = TextField()
    reason = TextField()
    request_id = TextField(null=True, unique=True)
    action_class = TextField()
    approvers = TextField()
    human = BooleanField()
    reason_required = BooleanField()
    lapse = SpanField()
    tool = TextField()
    arguments = TextField()
    cwd = TextField()
    digest = TextField()
    proof = WordField(Proof)
    lapses_at = TimeField(null=True)
    closed_at = TimeField(null=True)
    consume_request = TextField(null=True)

    class Meta:
        table_name = "authorization"


class AuthorizationLevelRow(Row):
    """Who is told when nobody decides a request, and when. `open` until it was told or the request
    was decided; `passed_over` when no agent had the role then."""

    authorization_id = TextField()
    level = IntegerField()
    receiver = TextField()
    due_at = TimeField()
    told_at = TimeField(null=True)
    open = BooleanField()
    passed_over = BooleanField()

    class Meta:
        table_name = "authorization_level"


class AuditRow(Row):
    """A link of the audit's chain; see core/audit.py."""

    event = IntegerField()
    at = TimeField()
    kind = TextField()
    subject = TextField()
    session = TextField()
    agent = TextField()
    actor = TextField()
    detail = TextField()
    facts = TextField()
    hash = TextField()

    class Meta:
        table_name = "audit"


class AuditCheckpointRow(Model):
    """The last link that was pruned; there is one at most."""

    only = IntegerField(primary_key=True)
    number = IntegerField()
    at = TimeField()
    hash = TextField()
    mac = TextField()

    class Meta:
        table_name = "audit_checkpoint"


class AgentStatusRow(Row):
    """What an agent does, and the evidence that told it."""

    agent_id = TextField(unique=True)
    state = WordField(AgentState)
    changed_at = TimeField()
    source = WordField(EvidenceSource)
    rule = TextField()
    detail = TextField()
    began_at = TimeField()
    observed_at = TimeField()
    reset_at = TimeField(null=True)

    class Meta:
        table_name = "agent_status"


class OperationRow(Row):
    """A long operation that an agent has announced."""

    agent_id = TextField(unique=True)
    reason = TextField()
    began_at = TimeField()
    ends_at = TimeField()

    class Meta:
        table_name = "operation"


class CreditHoldRow(Row):
    """An account that is, or was, limited."""

    credential = TextField(unique=True)
    began_at = TimeField()
    ends_at = TimeField()
    reset_known = BooleanField()
    attempts = IntegerField()
    source = TextField()
    detail = TextField()
    manual = BooleanField()
    released_at = TimeField(null=True)

    class Meta:
        table_name = "credit_hold"


class NudgeRow(Row):
    """A text that woke an idle agent."""

    id = TextField(unique=True)
    agent_id = TextField()
    reason = WordField(NudgeReason)
    delivery_id = TextField()
    created_at = TimeField()
    false_alarm = BooleanField()

    class Meta:
        table_name = "nudge"


class NudgeCountRow(Row):
    """How often a nudge for an agent was due within an hour, which it begins, and not sent."""

    hour = TimeField()
    agent_id = TextField()
    reason = WordField(NotSent)
    count = IntegerField()

    class Meta:
        table_name = "nudge_count"


class EscalationRow(Row):
    """A matter that is taken from level to level."""

    id = TextField(unique=True)
    agent_id = TextField()
    matter = WordField(Matter)
    level = IntegerField()
    created_at = TimeField()
    next_at = TimeField(null=True)
    ended_at = TimeField(null=True)
    detail = TextField()

    class Meta:
        table_name = "escalation"


class DependencyRow(Row):
    """A declared wait of one agent, `agent_id`, for another, `holder_id`. `outcome` is "" while it
    is open, then "REMOVED" or "EXPIRED"."""

    id = TextField(unique=True)
    agent_id = TextField()
    holder_id = TextField()
    reason = TextField()
    priority = IntegerField()
    created_at = TimeField()
    deadline_at = TimeField()
    ended_at = TimeField(null=True)
    outcome = TextField()
    request_id = TextField(null=True)

    class Meta:
        table_name = "dependency"


class AlertRow(Row):
    """Something that a person should hear of. `webhook_next_at` is None when the webhook is not to
    be tried (any more)."""

    id = TextField(unique=True)
    severity = WordField(Severity)
    kind = TextField()
    subject = TextField()
    session = TextField()
    text = TextField()
    created_at = TimeField()
    suppressed = IntegerField()
    webhook_at = TimeField(null=True)
    webhook_error = TextField()
    webhook_attempts = IntegerField()
    webhook_next_at = TimeField(null=True)

    class Meta:
        table_name = "alert"


MODELS = (
    StoreRow,
    EventRow,
    AgentRow,
    DeliveryRow,
    TaskRow,
    OccurrenceRow,
    SchedulerRow,
    TaskLoadRow,
    AuthorizationRow,
    AuthorizationLevelRow,
    AuditRow,
    AuditCheckpointRow,
    AgentStatusRow,
    OperationRow,
    CreditHoldRow,
    NudgeRow,
    NudgeCountRow,
    EscalationRow,
    DependencyRow,
    AlertRow,
    *SESSION_MODELS,
)
