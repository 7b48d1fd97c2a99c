"""The composition root: the one place where things are wired, started and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
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
    metrics_pb2,
    metrics_pb2_grpc,
    scheduler_pb2,
    scheduler_pb2_grpc,
    session_state_pb2,
    session_state_pb2_grpc,
    supervision_pb2,
    supervision_pb2_grpc,
)
from orch_server import __version__
from orch_server.config import Settings, check_home
from orch_server.core.clock import Clock, SystemClock
from orch_server.core.errors import StartupError
from orch_server.locks import held
from orch_server.loops.clock_watch import watch_clock
from orch_server.loops.deadlines import serve_deadlines
from orch_server.loops.leases import feel_pulse, watch_leases
from orch_server.loops.supervision import serve_supervision
from orch_server.loops.supervisor import Loop, supervise
from orch_server.transport.authorization import AuthorizationServicer
from orch_server.transport.events import EventServicer
from orch_server.transport.generic import GenericOnly
from orch_server.transport.guard import Guard
from orch_server.transport.heartbeat import HeartbeatServicer
from orch_server.transport.identity import IdentitySocket
from orch_server.transport.messaging import MessagingServicer
from orch_server.transport.metrics import MetricsServicer
from orch_server.transport.scheduler import SchedulerServicer
from orch_server.transport.session_state import SessionStateServicer
from orch_server.transport.supervision import SupervisionServicer
from orch_server.wiring import Core, recover, wire

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
    metrics_pb2.DESCRIPTOR.services_by_name["MetricsService"].full_name,
)


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
        core = await wire(settings, clock)
        try:
            await recover(core)
            await _run(settings, core, clock, stop, ready)
        finally:
            await core.courier.close()
            await core.supervisor.close()
            await core.store.close()


async def _run(
    settings: Settings, core: Core, clock: Clock, stop: asyncio.Event, ready: Callable[[str], None]
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


async def _drain(server: grpc.aio.Server, health: health_aio.HealthServicer, core: Core) -> None:
    """Health first, then streams are told to come back, then unary calls finish."""
    logger.info("draining")
    await health.enter_graceful_shutdown()
    core.bus.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GRACE):
            await core.heartbeat.drain(_RECONNECT_AFTER)
    await server.stop(_GRACE)
    logger.info("stopped")


def _loops(core: Core, clock: Clock) -> list[Loop]:
    """Every background task of the server."""
    scheduler, authorization = core.scheduler, core.authorization
    now_and_then: dict[str, Any] = {
        "audit": core.audit,
        "retention": core.retention,
        "metrics": core.metrics,
        "synchronizer": core.synchronizer,
    }
    by_the_clock = (scheduler, authorization, core.credit, core.waiting, *now_and_then.values())

    def look_anew() -> None:
        for service in by_the_clock:
            service.changed.set()

    def due(name: str, service: Any) -> Loop:
        return Loop(name, lambda: serve_deadlines(service.run_due, service.changed, clock))

    return [
        Loop("clock", lambda: watch_clock(look_anew)),
        Loop("leases", lambda: watch_leases(core.heartbeat, clock)),
        Loop("pulse", lambda: feel_pulse(core.heartbeat)),
        Loop("supervision", lambda: serve_supervision(core.supervisor, clock)),
        due("credit", core.credit),
        Loop("waiting", lambda: serve_deadlines(core.waiting.check, core.waiting.changed, clock)),
        Loop("alerts", core.alerts.run),
        Loop("tmux", core.synchronizer.watch),
        *(due(name, service) for name, service in now_and_then.items()),
        Loop("mailbox", core.mailbox.run),
        Loop("firing", lambda: serve_deadlines(scheduler.fire_due, scheduler.changed, clock)),
        due("authorization", authorization),
    ]


def _server(core: Core, clock: Clock) -> tuple[grpc.aio.Server, health_aio.HealthServicer]:
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
        SessionStateServicer(
            core.state,
            clock,
            core.waiting,
            core.status,
            core.synchronizer,
            core.retention,
            core.progress,
        ),
        services,
    )
    metrics_pb2_grpc.add_MetricsServiceServicer_to_server(MetricsServicer(core.metrics), services)
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


def _identity_socket(path: Path, core: Core) -> IdentitySocket:
    return IdentitySocket(path.with_name(f"{path.stem}-id.sock"), core.identity)


def _locks(settings: Settings) -> AbstractContextManager[None]:
    """A second server must not steal the home or a socket."""
    taken = StartupError(
        f"Another orch-server already serves {settings.home}; stop it first, or give this one"
        " another --home."
    )
    return held(settings, taken)
