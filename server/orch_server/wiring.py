"""The services, made and connected; app.py starts and stops them."""

from __future__ import annotations

from dataclasses import dataclass

from orch_server.config import Settings
from orch_server.core.agent import Agent
from orch_server.core.clock import Clock
from orch_server.local_zone import local_zone
from orch_server.services.agent_state import AgentStates
from orch_server.services.agents import AgentRegistry
from orch_server.services.alerts import AlertService
from orch_server.services.audit import AuditService
from orch_server.services.authorization import AuthorizationService
from orch_server.services.credit import CreditService
from orch_server.services.event_log import EventLog
from orch_server.services.events import LocalBus
from orch_server.services.guesses import Guesses
from orch_server.services.heartbeat import HeartbeatService
from orch_server.services.hooks import HookService
from orch_server.services.identity import IdentityService
from orch_server.services.mailbox import Mailbox
from orch_server.services.messaging import MessagingService
from orch_server.services.metrics import MetricsService
from orch_server.services.operations import OperationService
from orch_server.services.passphrase import Passphrase
from orch_server.services.progress import ProgressService
from orch_server.services.retention import Retention
from orch_server.services.scheduler import SchedulerService
from orch_server.services.session_state import SessionStateService
from orch_server.services.status import StatusService
from orch_server.services.supervisor import Supervisor
from orch_server.services.sync_repairs import Repairs
from orch_server.services.synchronizer import Synchronizer
from orch_server.services.targets import Targets
from orch_server.services.templates import Templates
from orch_server.services.tokens import TokenFiles
from orch_server.services.waiting import WaitingService
from orch_server.storage import spreading
from orch_server.storage.store import Store
from orch_server.tmux.display import TmuxDisplay
from orch_server.tmux.finder import PaneFinder
from orch_server.tmux.local_courier import LocalCourier
from orch_server.tmux.processes import host_name


@dataclass(frozen=True, slots=True)
class Core:
    """The services, wired."""

    store: Store
    bus: LocalBus
    registry: AgentRegistry
    identity: IdentityService
    passphrase: Passphrase
    heartbeat: HeartbeatService
    mailbox: Mailbox
    scheduler: SchedulerService
    authorization: AuthorizationService
    state: SessionStateService
    messaging: MessagingService
    hooks: HookService
    courier: LocalCourier
    states: AgentStates
    operations: OperationService
    credit: CreditService
    waiting: WaitingService
    supervisor: Supervisor
    alerts: AlertService
    targets: Targets
    events: EventLog
    audit: AuditService
    status: StatusService
    synchronizer: Synchronizer
    retention: Retention
    metrics: MetricsService
    progress: ProgressService


async def wire(settings: Settings, clock: Clock) -> Core:
    """Makes every service and connects them; opens the store. Raises StartupError."""
    host = host_name()
    bus = LocalBus()
    store = Store(settings.database, clock, bus.publish)
    known = await store.open()
    finder = PaneFinder(host, settings.default_tmux)
    passphrase = Passphrase(settings.passphrase)
    passphrase.on_wrong = Guesses(store, clock).tell
    registry = AgentRegistry(store, clock)
    await registry.load()
    roles = settings.policy.deciding_roles()
    identity = IdentityService(
        finder, registry, TokenFiles(settings.tokens), known.token_key, clock
    )
    targets = Targets(registry, finder, passphrase, roles)
    heartbeat = HeartbeatService(store, registry, finder, passphrase, roles, settings.pace, clock)
    courier = LocalCourier()
    mailbox = Mailbox(
        store,
        registry,
        heartbeat,
        courier,
        targets.resettle,
        host,
        known.generation,
        clock,
    )
    heartbeat.on_courier = mailbox.wake
    here = local_zone(clock.now())
    scheduler = SchedulerService(
        store,
        targets,
        bus,
        clock,
        mailbox.wake,
        str(here),
        settings.max_open_tasks,
    )
    authorization = AuthorizationService(
        store, registry, targets, passphrase, bus, settings.policy, clock, mailbox.wake
    )
    states = AgentStates(store, registry, clock, here)
    operations = OperationService(store, targets, clock, lambda agent: supervisor.changed.set())

    def freed(agent_id: str) -> None:
        mailbox.wake(agent_id)
        scheduler.agent_freed(agent_id)

    credit = CreditService(store, registry, states, freed, clock)
    waiting = WaitingService(store, registry, targets, authorization, clock, mailbox.wake)
    authorization.on_request = waiting.changed.set
    supervisor = Supervisor(
        store,
        registry,
        heartbeat,
        states,
        operations,
        credit,
        waiting,
        mailbox.wake,
        clock,
        settings.nudges_per_hour,
    )
    display = TmuxDisplay(lambda: registry.sockets(host))
    alerts = AlertService(store, bus, display, clock, settings.alert_webhook)
    _listen(heartbeat, states, credit, operations, supervisor)
    mailbox.held_until = credit.held_until
    mailbox.held_agents = scheduler.held = credit.held_agents
    state = SessionStateService(
        store, registry, heartbeat, waiting, targets, bus, states, operations, credit, supervisor
    )
    templates = Templates(settings.templates)
    messaging = MessagingService(store, registry, targets, templates, bus, clock, mailbox.wake)
    hooks = HookService(store, targets, mailbox, states)
    return Core(
        store,
        bus,
        registry,
        identity,
        passphrase,
        heartbeat,
        mailbox,
        scheduler,
        authorization,
        state,
        messaging,
        hooks,
        courier,
        states,
        operations,
        credit,
        waiting,
        supervisor,
        alerts,
        targets,
        EventLog(store, bus),
        AuditService(store, clock, settings.audit_days),
        StatusService(store, state, passphrase, clock),
        Synchronizer(
            store,
            registry,
            finder,
            clock,
            known.generation,
            settings.backups,
            bus,
            Repairs(store, registry, heartbeat, targets.resettle, mailbox.wake),
        ),
        Retention(
            store,
            registry,
            targets,
            clock,
            settings.history_days,
            settings.backups,
            state.forget_agents,
        ),
        MetricsService(store, clock),
        ProgressService(store, targets),
    )


def _listen(
    heartbeat: HeartbeatService,
    states: AgentStates,
    credit: CreditService,
    operations: OperationService,
    supervisor: Supervisor,
) -> None:
    """Who hears of whose changes."""

    def liveness(agent: Agent) -> None:
        states.liveness_changed(agent)
        supervisor.liveness_changed(agent)

    heartbeat.on_liveness = liveness
    states.on_change = [credit.state_changed, operations.state_changed, supervisor.state_changed]


async def recover(core: Core) -> None:
    """What must be true before the first call: the overdue has expired, clients have an amnesty,
    and what was overdue when it was imported does not come all at once."""
    await core.metrics.tell_start()
    if await core.store.read(spreading.waits):
        await core.store.write(spreading.spread_overdue)
    await core.authorization.run_due()
    for service in (core.states, core.operations, core.credit, core.supervisor):
        await service.load()
    await core.heartbeat.restore()
