"""A request for leave to act, as the rules see it."""

from __future__ import annotations

from datetime import UTC, datetime

from orch_server.core.authorization import Action, Requester, ask
from orch_server.core.identity import Incarnation
from orch_server.core.policy import default_policy

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
POLICY = default_policy(("orchestrator", "project_manager"))
PANE = Incarnation("h", "/s", 1, 1, "%1")
DEVELOPER = Requester("dev", "atlas", "developer", PANE, 4242)
BOUND = Action("", "Deploy", "/srv/atlas")
#: Of the class critical: a human must approve it.
ASKED = ask(
    "3fa8",
    DEVELOPER,
    "Deploy",
    BOUND,
    "orchestrator",
    POLICY.classify("Deploy"),
    None,
    None,
    POLICY,
    NOW,
)
