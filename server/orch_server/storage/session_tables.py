"""The tables of session state as peewee models; see tables.py."""

from __future__ import annotations

from peewee import BooleanField, FloatField, IntegerField, TextField

from orch_server.core.session import Completion, Phase, Plan, ProjectSize
from orch_server.core.sync import MismatchKind
from orch_server.storage.columns import Row, SpanField, TimeField, WordField


class ProjectRow(Row):
    """A directory that is worked on, under the name that its sessions give it. Two names of one
    directory are two rows."""

    id = TextField(unique=True)
    name = TextField()
    path = TextField()
    created_at = TimeField()

    class Meta:
        table_name = "project"


class SessionRow(Row):
    """The state of a session. `name_missing`: the name of its tmux session is not known, and
    `name` is only a label."""

    name = TextField(unique=True)
    created_at = TimeField()
    updated_at = TimeField()
    version = IntegerField()
    specification_path = TextField()
    parent_branch = TextField()
    phase = WordField(Phase)
    plan = WordField(Plan)
    completion = WordField(Completion)
    failure_reason = TextField()
    project_id = TextField(null=True)
    project_size = WordField(ProjectSize)
    original_specification_path = TextField()
    worktree_base_path = TextField()
    batch_id = TextField()
    orchestrator_window = IntegerField()
    completed_at = TimeField(null=True)
    name_missing = BooleanField()

    class Meta:
        table_name = "session"


class AgentDetailRow(Row):
    """What is known of an agent beside its client: window, briefing, worktree. `imported_…` is what
    the old system last said of it; it means nothing once a client of ours was heard."""

    agent_id = TextField(unique=True)
    version = IntegerField()
    updated_at = TimeField()
    window_index = IntegerField(null=True)
    window_name = TextField()
    briefed_at = TimeField(null=True)
    worktree_path = TextField()
    branch = TextField()
    commit_hash = TextField()
    imported_alive = BooleanField(null=True)
    imported_exhausted = BooleanField(null=True)
    imported_credit_reset = TextField()
    worktree_learned = BooleanField()

    class Meta:
        table_name = "agent_detail"


class PhaseRow(Row):
    """A completed phase of a session; the times are None when the old system did not know them.
    `length` is known without them, or is None too."""

    session = TextField()
    position = IntegerField()
    name = TextField()
    began_at = TimeField(null=True)
    ended_at = TimeField(null=True)
    length = SpanField(null=True)
    request_id = TextField(null=True, unique=True)

    class Meta:
        table_name = "session_phase"


class StatusReportRow(Row):
    """What a role of a session last reported."""

    session = TextField()
    role = TextField()
    topic = TextField()
    status = TextField()
    detail = TextField()
    at = TimeField()

    class Meta:
        table_name = "status_report"


class RoleDependencyRow(Row):
    """A role of a session builds on the work of another, `needs`."""

    session = TextField()
    role = TextField()
    needs = TextField()

    class Meta:
        table_name = "role_dependency"


class MetricRow(Row):
    """The value of a figure over one period that is over; `session` is "" for all together."""

    period = TextField()
    begins_at = TimeField()
    session = TextField()
    name = TextField()
    value = FloatField()
    samples = IntegerField()

    class Meta:
        table_name = "metric"


class MetricAgentRow(Row):
    """What an agent did when the last hour of the metrics ended that was kept."""

    agent_id = TextField(unique=True)
    session = TextField()
    liveness = TextField()
    state = TextField()

    class Meta:
        table_name = "metric_agent"


class MismatchRow(Row):
    """A difference between the store and tmux that is there now. `told_at`: since when it is
    reported, None in its grace; `tmux_socket`: whose server told it, "" when none did."""

    kind = WordField(MismatchKind)
    subject = TextField()
    session = TextField()
    detail = TextField()
    first_seen_at = TimeField()
    last_seen_at = TimeField()
    told_at = TimeField(null=True)
    tmux_socket = TextField()

    class Meta:
        table_name = "mismatch"


class ImportRunRow(Row):
    """One import. `zone` is that of the old system's times. `spread_at`: when the server first
    started after it, and what was overdue got times that do not fall together."""

    id = TextField(unique=True)
    at = TimeField()
    source = TextField()
    backup = TextField()
    zone = TextField()
    spread_at = TimeField(null=True)

    class Meta:
        table_name = "import_run"


class ImportedRow(Row):
    """One record of the old system that was imported, and as what."""

    run_id = TextField()
    record = TextField(unique=True)
    subject = TextField()
    digest = TextField()

    class Meta:
        table_name = "imported"


class LegacyValueRow(Row):
    """A value of the old system, as JSON, that no column holds as it was written. `read_as` is what
    an export of the columns said in its place, when it was imported; None when they say nothing."""

    session = TextField()
    record = TextField()
    field = TextField()
    value = TextField()
    read_as = TextField(null=True)

    class Meta:
        table_name = "legacy_value"


SESSION_MODELS = (
    ProjectRow,
    SessionRow,
    AgentDetailRow,
    PhaseRow,
    StatusReportRow,
    RoleDependencyRow,
    MetricRow,
    MetricAgentRow,
    MismatchRow,
    ImportRunRow,
    ImportedRow,
    LegacyValueRow,
)
