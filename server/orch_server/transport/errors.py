"""The one table from our errors to status codes, and the details that go with them.

Every error carries google.rpc.ErrorInfo (reason, domain "orch"); one that a field of the request
caused carries BadRequest with the field too. What is not one of our errors is masked: the caller
gets an id, the log the rest.
"""

from __future__ import annotations

import logging
import secrets
from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from orch_server.core import errors

logger = logging.getLogger(__name__)

DOMAIN = "orch"

STATUS: dict[type[errors.OrchError], int] = {
    errors.InvalidInput: code_pb2.INVALID_ARGUMENT,
    errors.Unidentified: code_pb2.UNAUTHENTICATED,
    errors.NotAllowed: code_pb2.PERMISSION_DENIED,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.Ambiguous: code_pb2.FAILED_PRECONDITION,
    errors.AlreadyExists: code_pb2.ALREADY_EXISTS,
    errors.Conflict: code_pb2.FAILED_PRECONDITION,
    errors.LimitReached: code_pb2.RESOURCE_EXHAUSTED,
    errors.VersionMismatch: code_pb2.ABORTED,
    errors.StaleEpoch: code_pb2.ABORTED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
}


def code_of(error: type[errors.OrchError]) -> int:
    """The status code of an error's class or of its nearest base."""
    for base in error.__mro__:
        if base in STATUS:
            return STATUS[base]
    raise LookupError(f"{error.__name__} has no status code")


def to_status(error: errors.OrchError) -> status_pb2.Status:
    """The error as it goes over the wire."""
    status = status_pb2.Status(code=code_of(type(error)), message=error.message)
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata=dict(error.metadata)
    )
    status.details.append(_packed(info))
    if "field" in error.metadata:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.metadata["field"], description=error.message
        )
        status.details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    return status


def masked(error: Exception, method: str) -> status_pb2.Status:
    """What a caller hears of a fault of ours: an id under which the log tells the rest."""
    incident = secrets.token_hex(4)
    logger.error("call failed", extra={"incident": incident, "method": method}, exc_info=error)
    status = status_pb2.Status(
        code=code_pb2.INTERNAL,
        message=f"The server made a mistake; its log tells more under {incident}.",
    )
    info = error_details_pb2.ErrorInfo(
        reason="INTERNAL", domain=DOMAIN, metadata={"incident": incident}
    )
    status.details.append(_packed(info))
    return status


async def abort(
    context: grpc.aio.ServicerContext[object, object], status: status_pb2.Status
) -> NoReturn:
    """Ends the call with this status."""
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("unreachable: abort raises")


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
