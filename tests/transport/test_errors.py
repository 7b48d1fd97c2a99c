"""Errors on their way out: one table, every leaf, and nothing of ours leaks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from orch_server.core import errors
from orch_server.services.heartbeat import _LeaseEnded
from orch_server.tmux.bounded import TmuxUnanswered
from orch_server.transport.errors import code_of, masked, to_status

NEVER_SENT = {errors.OrchError, errors.StartupError}


def _tree(base: type[errors.OrchError]) -> Iterator[type[errors.OrchError]]:
    for child in base.__subclasses__():
        yield child
        yield from _tree(child)


TREE = sorted({c for c in _tree(errors.OrchError) if c not in NEVER_SENT}, key=lambda c: c.__name__)


def _made(kind: type[errors.OrchError]) -> errors.OrchError:
    if issubclass(kind, errors.InvalidInput):
        return kind("note", "The note is wrong.")
    if issubclass(kind, errors.IllegalTransition):
        return kind("delivery", "PASTED", "REFUSE")
    if kind is _LeaseEnded:
        return kind()
    return kind("One sentence.", detail="x")


def _details(status: status_pb2.Status) -> tuple[Any, Any]:
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        assert detail.Unpack(info) or detail.Unpack(bad)
    return info, bad


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_each_error_has_a_status_that_tells_something(kind: type[errors.OrchError]) -> None:
    assert code_of(kind) not in (code_pb2.OK, code_pb2.UNKNOWN, code_pb2.INTERNAL)


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_each_error_says_its_reason_and_its_metadata(kind: type[errors.OrchError]) -> None:
    error = _made(kind)
    status = to_status(error)
    info, bad = _details(status)
    assert status.message == error.message
    assert (info.reason, info.domain) == (kind.reason, "orch")
    assert dict(info.metadata) == dict(error.metadata)
    assert info.reason.replace("_", "").isupper()
    fields = [violation.field for violation in bad.field_violations]
    assert fields == (["note"] if issubclass(kind, errors.InvalidInput) else [])


def test_each_error_has_a_reason_of_its_own() -> None:
    reasons = [kind.reason for kind in (*TREE, errors.StartupError, errors.OrchError)]
    assert len(set(reasons)) == len(reasons)


def test_the_tree_holds_what_is_raised() -> None:
    assert TmuxUnanswered in TREE
    assert errors.PassphraseRequired in TREE
    assert len(TREE) >= 14


def test_what_is_never_sent_has_no_status() -> None:
    with pytest.raises(LookupError):
        code_of(errors.StartupError)


def test_an_unknown_exception_is_masked_with_an_incident_that_the_log_knows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = KeyError("secret-of-the-server")
    status = masked(error, "/orch.v1.X/Y")
    info, _ = _details(status)
    incident = info.metadata["incident"]
    assert (status.code, info.domain) == (code_pb2.INTERNAL, "orch")
    assert "secret" not in str(status)
    assert incident in status.message
    (record,) = caplog.records
    assert record.incident == incident  # type: ignore[attr-defined]
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert masked(error, "x").message != status.message
