"""The composition root: the one place where things are wired, started and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from orch.v1 import (
    authorization_pb2,
    authorization_pb2_grpc,
    event_pb2,
    event_pb2_grpc,
    heartbeat_pb2,
    heartbeat_pb2_grpc,
    messaging_pb2,
    messaging_pb2_grpc,
    scheduler_pb2,
    scheduler_pb2_grpc,
    session_state_pb2,
    session_state_pb2_grpc,
    supervision_pb2,
    supervision_pb2_grpc,
)
from orch_server import __version__
from orch_server.config import Settings, check_home
from orch_server.core.agent import Agent
from orch_server.core.clock import Clock, SystemClock
from orch_server.core.errors import StartupError
from orch_server.local_zone import local_zone
from orch_server.loops.clock_watch import watch_clock
from orch_server.loops.deadlines import serve_deadlines
from orch_server.loops.leases import feel_pulse, watch_leases
from orch_server.loops.supervision import serve_supervision
from orch_server.loops.supervisor import Loop, supervise
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
from orch_server.services.operations import OperationService
from orch_server.services.passphrase import Passphrase
from orch_server.services.scheduler import SchedulerService
from orch_server.services.session_state import SessionStateService
from orch_server.services.supervisor import Supervisor
from orch_server.services.targets import Targets
from orch_server.services.templates import Templates
from orch_server.services.tokens import TokenFiles
from orch_server.services.waiting import WaitingService
from orch_server.storage.store import Store
from orch_server.tmux.display import TmuxDisplay
from orch_server.tmux.finder import PaneFinder
from orch_server.tmux.local_courier import LocalCourier
from orch_server.tmux.processes import host_name
from orch_server.transport.authorization import AuthorizationServicer
from orch_server.transport.events import EventServicer
from orch_server.transport.generic import GenericOnly
from orch_server.transport.guard import Guard
from orch_server.transport.heartbeat import HeartbeatServicer
from orch_server.transport.identity import IdentitySocket
from orch_server.transport.messaging import MessagingServicer
from orch_server.transport.scheduler import SchedulerServicer
from orch_server.transport.session_state import SessionStateServicer
from orch_server.transport.supervision import SupervisionServicer

logger = logging.getLogger(__name__)

_GRACE = 2.0
_RECONNECT_AFTER = timedelta(milliseconds=200)
_OPEN_MODE = (
    "; open mode: anyone local may decide authorizations, 'orch-server passphrase set' closes it"
)
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second server must not share the port
    ("grpc.server.max_pending_requests", 20_000),  # a reconnect storm must not be refused
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    # else windows grow to 4 MB a stream, and a client that never reads fills them
    ("grpc.http2.bdp_probe", 0),
)
_SERVICES = (
    heartbeat_pb2.DESCRIPTOR.services_by_name["HeartbeatService"].full_name,
    scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"].full_name,
    authorization_pb2.DESCRIPTOR.services_by_name["AuthorizationService"].full_name,
    session_state_pb2.DESCRIPTOR.services_by_name["SessionStateService"].full_name,
    messaging_pb2.DESCRIPTOR.services_by_name["MessagingService"].full_name,
    supervision_pb2.DESCRIPTOR.services_by_name["SupervisionService"].full_name,
    event_pb2.DESCRIPTOR.services_by_name["EventService"].full_name,
)


@dataclass(frozen=True, slots=True)
class _Core:
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


async def serve(settings: Settings, ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM, SIGINT or SIGHUP; calls `ready` with one line when it answers calls.

    Raises StartupError when it cannot start, LoopDied when one of its loops ended.
    """
    os.umask(0o077)
    os.environ["LC_ALL"] = "C.UTF-8"  # libtmux: in another locale tmux garbles names
    clock = SystemClock()
    check_home(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    with _locks(settings):
        core = await _wire(settings, clock)
        try:
            await _recover(core)
            await _run(settings, core, clock, stop, ready)
        finally:
            await core.courier.close()
            await core.supervisor.close()
            await core.store.close()


async def _wire(settings: Settings, clock: Clock) -> _Core:
    host = host_name()
    bus = LocalBus()
    store = Store(settings.database, clock, bus.publish)
    known = await store.open()
    finder = PaneFinder(host)
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
    return _Core(
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


async def _recover(core: _Core) -> None:
    """What must be true before the first call: the overdue has expired, clients have an amnesty."""
    await core.authorization.run_due()
    for service in (core.states, core.operations, core.credit, core.supervisor):
        await service.load()
    await core.heartbeat.restore()


async def _run(
    settings: Settings, core: _Core, clock: Clock, stop: asyncio.Event, ready: Callable[[str], None]
) -> None:
    server, health = _server(core, clock)
    sockets = [_identity_socket(path, core) for path in settings.sockets]
    addresses = _bind(server, settings)
    await server.start()
    await _serving(health)
    for socket in sockets:
        await socket.start()
    gc.collect()
    gc.freeze()  # what was loaded stays; the collector need not look at it again
    loops = asyncio.create_task(supervise(_loops(core, clock)))
    mode = "" if core.passphrase.is_set() else _OPEN_MODE
    ready(f"orch-server {__version__} ready on {' '.join(addresses)} (pid {os.getpid()}){mode}")
    try:
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((loops, stopped), return_when=asyncio.FIRST_COMPLETED)
        await _drain(server, health, core)
    finally:
        for socket in sockets:
            await socket.stop()
        loops.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loops  # raises LoopDied when that was why the server stops


async def _drain(server: grpc.aio.Server, health: health_aio.HealthServicer, core: _Core) -> None:
    """Health first, then streams are told to come back, then unary calls finish."""
    logger.info("draining")
    await health.enter_graceful_shutdown()
    core.bus.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GRACE):
            await core.heartbeat.drain(_RECONNECT_AFTER)
    await server.stop(_GRACE)
    logger.info("stopped")


def _loops(core: _Core, clock: Clock) -> list[Loop]:
    """Every background task of the server."""
    scheduler, authorization = core.scheduler, core.authorization
    by_the_clock = (scheduler, authorization, core.credit, core.waiting, core.audit)

    def look_anew() -> None:
        for service in by_the_clock:
            service.changed.set()

    return [
        Loop("clock", lambda: watch_clock(look_anew)),
        Loop("leases", lambda: watch_leases(core.heartbeat, clock)),
        Loop("pulse", lambda: feel_pulse(core.heartbeat)),
        Loop("supervision", lambda: serve_supervision(core.supervisor, clock)),
        Loop("credit", lambda: serve_deadlines(core.credit.run_due, core.credit.changed, clock)),
        Loop("waiting", lambda: serve_deadlines(core.waiting.check, core.waiting.changed, clock)),
        Loop("alerts", core.alerts.run),
        Loop("audit", lambda: serve_deadlines(core.audit.run_due, core.audit.changed, clock)),
        Loop("mailbox", core.mailbox.run),
        Loop("firing", lambda: serve_deadlines(scheduler.fire_due, scheduler.changed, clock)),
        Loop(
            "authorization",
            lambda: serve_deadlines(authorization.run_due, authorization.changed, clock),
        ),
    ]


def _server(core: _Core, clock: Clock) -> tuple[grpc.aio.Server, health_aio.HealthServicer]:
    server = grpc.aio.server(interceptors=[Guard(core.identity)], options=_OPTIONS)
    health = health_aio.HealthServicer()
    services: Any = GenericOnly(server)
    heartbeat_pb2_grpc.add_HeartbeatServiceServicer_to_server(
        HeartbeatServicer(
            core.heartbeat, core.mailbox, core.state, core.hooks, core.states, core.operations
        ),
        services,
    )
    scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(
        SchedulerServicer(core.scheduler), services
    )
    authorization_pb2_grpc.add_AuthorizationServiceServicer_to_server(
        AuthorizationServicer(core.authorization), services
    )
    session_state_pb2_grpc.add_SessionStateServiceServicer_to_server(
        SessionStateServicer(core.state, clock, core.waiting), services
    )
    supervision_pb2_grpc.add_SupervisionServiceServicer_to_server(
        SupervisionServicer(
            core.supervisor, core.credit, core.alerts, core.state, core.registry, core.targets
        ),
        services,
    )
    messaging_pb2_grpc.add_MessagingServiceServicer_to_server(
        MessagingServicer(core.messaging), services
    )
    event_pb2_grpc.add_EventServiceServicer_to_server(EventServicer(core.events), services)
    health_pb2_grpc.add_HealthServicer_to_server(health, services)
    names = (*_SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
    return server, health


async def _serving(health: health_aio.HealthServicer) -> None:
    for name in ("", *_SERVICES):
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)


def _bind(server: grpc.aio.Server, settings: Settings) -> list[str]:
    """Binds all addresses; a Unix socket is for this user only."""
    addresses = []
    before = os.umask(0o177)
    try:
        for path in settings.sockets:
            server.add_insecure_port(f"unix:{path}")
            path.chmod(0o600)
            addresses.append(f"unix:{path}")
        for address in settings.ports:
            host = address.rpartition(":")[0]
            port = server.add_insecure_port(address)
            addresses.append(f"{host}:{port}")
    except (RuntimeError, OSError) as exc:
        raise StartupError(
            f"The server cannot listen ({exc}); another program may have the address."
        ) from exc
    finally:
        os.umask(before)
    return addresses


def _identity_socket(path: Path, core: _Core) -> IdentitySocket:
    return IdentitySocket(path.with_name(f"{path.stem}-id.sock"), core.identity)


@contextlib.contextmanager
def _locks(settings: Settings) -> Iterator[None]:
    """Holds a lock on the home and on each socket: a second server must not steal either."""
    with contextlib.ExitStack() as stack:
        for path in (settings.database, *settings.sockets):
            lock = stack.enter_context(path.with_name(f"{path.name}.lock").open("a"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise StartupError(
                    f"Another orch-server already serves {path.parent}; stop it first, or give this"
                    " one another --home."
                ) from exc
        yield
