"""Fills a plan: sessions and their agents. Their queue is in build_queue.py."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any

from orch_server.core import authorization as rules
from orch_server.core.agent import Liveness
from orch_server.core.authorization import Action, Requester
from orch_server.core.errors import InvalidInput
from orch_server.core.legacy import LegacyAgent, LegacySession, LegacyWait, Source
from orch_server.core.policy import MAX_TIMEOUT, MIN_TIMEOUT, Policy
from orch_server.core.session import MUTABLE, Session
from orch_server.core.text import MAX_ACTION_BYTES, check_role, clean_text
from orch_server.legacy import build_queue
from orch_server.legacy.plan import ALREADY, CHANGED, DELETED, IMPORTABLE, REFUSED, Entry, Plan
from orch_server.storage.columns import micros, span
from orch_server.storage.imports import OVER, OVERDUE, Known
from orch_server.storage.lookup import new_id

#: Of a session of ours these are never filled: they say what is going on now.
_GOING_ON = frozenset({"phase", "completion", "failure_reason"})
_BELOW = "projects/"
_DEFAULTS = {f.name: f.default for f in fields(Session) if f.name in MUTABLE}


def plan(source: Source, known: Known, policy: Policy, now: datetime) -> Plan:
    """What an import of this would write into a store that has that."""
    made = Plan(source, known, now, refused=list(source.refused), findings=list(source.findings))
    at = Sessions(made, policy)
    tasks = Counter(task.session for task in source.tasks)
    for session in source.sessions:
        result, why = at.add(session)
        name, agents = session.session.name, len(session.agents)
        made.entries.append(Entry(session.directory, name, agents, tasks[name], result, why))
    made.entries.extend(
        Entry(one.where.removeprefix(_BELOW), "", 0, 0, REFUSED, one.why)
        for one in source.refused
        if one.where.startswith(_BELOW)
    )
    made.entries.sort(key=lambda entry: entry.directory)
    build_queue.add(made, at)
    return made


class Sessions:
    """Sessions and agents, those of the store and those that come."""

    def __init__(self, made: Plan, policy: Policy) -> None:
        self._plan = made
        self._policy = policy
        self.agents = dict(made.known.agents)
        self._windows = dict(made.known.windows)
        self._windows_of_file: dict[tuple[str, int], str] = {}
        self.names = set(made.known.sessions)
        self.ended = {name for name, one in made.known.sessions.items() if one.ended}
        self._projects: dict[tuple[str, str], str] = dict(made.known.projects)

    def add(self, old: LegacySession) -> tuple[str, str]:
        """Plans one session; returns the result and why."""
        plan, record, name = self._plan, old.record, old.session.name
        before = plan.known.imported.get(record)
        if before is not None:
            if plan.known.was_deleted(name):
                return DELETED, "imported before; it stays deleted"
            self._see_windows(old)
            if before == old.digest:
                return ALREADY, ""
            return CHANGED, "already there; changed since, and our state is the truth now"
        if not _storable(name):
            return REFUSED, "its name is no valid text"
        mine = plan.known.sessions.get(name)
        if mine is None:
            self._new(old.session)
        elif name in plan.known.bare:
            self._take_over(old.session)
        else:
            self._fill(record, mine, old.session)
        plan.take(record, name, old.digest, name, old.raw)
        plan.values.append((name, f"directory:{name}", "name", json.dumps(old.directory)))
        for agent in old.agents:
            self._agent(old, agent)
        self._see_windows(old)
        self._rest(old)
        plan.told.append((name, f"{len(old.agents)} agents"))
        return IMPORTABLE, ""

    def ensure(self, name: str, record: str) -> None:
        """A session that the registry does not know gets a bare row."""
        if name in self.names:
            return
        self._new(Session(name, self._plan.now, self._plan.now))
        self._plan.told.append((name, "unknown to the registry"))
        self._plan.find(record, f"The registry knows no session {name}; a bare one is made.")

    def bare_agent(self, session: str, role: str, window: int | None) -> str:
        """The id of a new agent of which only this is known."""
        made = new_id()
        self._agent_row(made, session, role, None, self._plan.now)
        if window is not None:
            now = micros(self._plan.now)
            detail = (made, 1, now, window, "", None, "", "", "", None, None, "")
            self._plan.put("agent_detail", *detail)
            self._windows.setdefault((session, window), made)
        return made

    def at_window(self, session: str, window: int) -> str | None:
        """The id of the agent of a window, by what is imported; by ours where that has none."""
        where = (session, window)
        return self._windows_of_file.get(where) or self._windows.get(where)

    def _see_windows(self, old: LegacySession) -> None:
        for one in old.agents:
            agent = self.agents.get((old.session.name, one.role))
            if agent is not None and one.detail.window_index is not None:
                where = (old.session.name, one.detail.window_index)
                self._windows_of_file.setdefault(where, agent)

    def _new(self, session: Session) -> None:
        self.names.add(session.name)
        self._plan.put("session", *self._row(session, 1))
        if session.ended:
            self.ended.add(session.name)

    def _take_over(self, session: Session) -> None:
        """What an earlier import made without the session's file becomes what the file says."""
        self._plan.takeovers.append(self._row(session, 2))
        if session.ended:
            self.ended.add(session.name)
            self._plan.endings.append(session.name)

    def _row(self, session: Session, version: int) -> tuple[Any, ...]:
        """A row of `session`."""
        completed = session.completed_at or (session.updated_at if session.ended else None)
        return (
            session.name,
            micros(session.created_at),
            micros(session.updated_at),
            version,
            self._project(session.project_path, session.project_name),
            session.specification_path,
            session.parent_branch,
            session.phase,
            session.plan,
            session.completion,
            session.failure_reason,
            session.project_size,
            session.original_specification_path,
            session.worktree_base_path,
            session.batch_id,
            session.orchestrator_window,
            None if completed is None else micros(completed),
            session.name_missing,
        )

    def _project(self, path: str, name: str) -> str | None:
        if not path and not name:
            return None
        if (path, name) not in self._projects:
            self._projects[path, name] = made = new_id()
            self._plan.put("project", made, name, path, micros(self._plan.now))
        return self._projects[path, name]

    def _fill(self, record: str, mine: Session, old: Session) -> None:
        """Only what is empty in ours is taken over."""
        changes, differing = {}, []
        for name, default in _DEFAULTS.items():
            ours, theirs = getattr(mine, name), getattr(old, name)
            if theirs in (ours, default):
                continue
            if ours == default and name not in _GOING_ON:
                changes[name] = theirs
            else:
                differing.append(name)
        if changes:
            self._plan.fills.append(replace(mine, **changes))
        if differing:
            said = ", ".join(differing)
            self._plan.find(record, f"A session of this name is here; ours is kept of: {said}.")

    def _agent(self, of: LegacySession, old: LegacyAgent) -> None:
        session, detail = of.session.name, old.detail
        record = f"agent:{session}:{old.role}"
        agent = self.agents.get((session, old.role))
        if agent is None:
            agent = new_id()
            self._agent_row(agent, session, old.role, old.checked_in_at, of.session.created_at)
        elif old.checked_in_at is not None:
            self._plan.seen.append((micros(old.checked_in_at), agent))
        self._plan.put(
            "agent_detail",
            agent,
            1,
            micros(self._plan.now),
            detail.window_index,
            detail.window_name,
            None if detail.briefed_at is None else micros(detail.briefed_at),
            detail.worktree_path,
            detail.branch,
            detail.commit_hash,
            detail.imported_alive,
            detail.imported_exhausted,
            detail.imported_credit_reset,
        )
        self._plan.raw[record] = (session, old.raw)
        if old.key not in ("", old.role):
            key = (session, f"key:{session}:{old.role}", "name", json.dumps(old.key))
            self._plan.values.append(key)
        if old.waiting is not None:
            self._wait(record, Requester(agent, session, old.role, None, 0), old.waiting)

    def _agent_row(
        self, made: str, session: str, role: str, seen: datetime | None, created: datetime
    ) -> None:
        self.agents[session, role] = made
        life = (Liveness.UNMANAGED, micros(self._plan.now), None if seen is None else micros(seen))
        nowhere = ("", "", "", 0, 0, "", 0, 0)  # from kind to epoch
        self._plan.put("agent", made, session, role, *nowhere, *life, "", micros(created))

    def _wait(self, record: str, requester: Requester, old: LegacyWait) -> None:
        """A request for leave, if our policy lets this role decide it."""
        try:
            text, _ = clean_text("request", old.request, MAX_ACTION_BYTES)
            approver = check_role("role", old.role)
        except InvalidInput as exc:
            self._plan.find(record, f"What it waits for is only kept: {exc.message}")
            return
        of = self._policy.classify(text)
        why = _unfit(requester, approver, of.approvers, old.timeout)
        if why:
            self._plan.find(record, f"What it waits for is only kept: {why}.")
            return
        action = Action("", text, "")
        asked = rules.ask(
            *(new_id(), requester, text, action, approver, of, None, old.timeout, self._policy),
            old.since,
        )
        why = ""
        if requester.session in self.ended:
            why = OVER
            self._plan.find(record, "Its session is over; its request for leave is expired.")
        elif asked.deadline_at <= self._plan.now:
            why = OVERDUE
            self._plan.find(record, "Its request for leave is overdue; it is expired.")
        self._plan.waits.append((asked, old.request_id, why))

    def _rest(self, old: LegacySession) -> None:
        """Phases, reports, dependencies and figures."""
        put, name = self._plan.put, old.session.name
        for position, phase in enumerate(old.phases):
            times = [None if at is None else micros(at) for at in (phase.began_at, phase.ended_at)]
            length = None if phase.length is None else span(phase.length)
            put("session_phase", name, position, phase.name, *times, length)
        for report in old.reports:
            said = (report.role, report.topic, report.status, report.detail)
            put("status_report", name, *said, micros(report.at))
        for role, needs in old.dependencies:
            for need in needs:
                put("role_dependency", name, role, need)
        at = micros(old.session.updated_at)
        for figure, value in old.metrics.items():
            put("metric", "IMPORTED", at, name, figure, value, 1)


def _unfit(
    requester: Requester, approver: str, approvers: tuple[str, ...], timeout: timedelta
) -> str:
    """Why a request is not taken over; "" when it is."""
    if approver == requester.role:
        return "it asks itself"
    if approver not in approvers:
        return f"the role {approver} may not approve that here"
    if not MIN_TIMEOUT <= timeout <= MAX_TIMEOUT:
        return "its time to wait is out of range"
    return ""


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
