"""A stand-in for the models, on loopback: what an agent sends is recorded, what it gets is planned.

It speaks as much of the two streaming APIs as the real programs need: POST /v1/messages (Claude
Code) and POST /v1/responses (Codex). Everything else gets an empty answer.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

_PING = 0.2
#: What the agents add to the user's words by themselves.
_ADDED = ("<system-reminder>\nAs you answer", "Available agent types", "<environment_context>")
_WAIT_AT_MOST = 60.0
#: An error with these is not tried again by Claude Code.
_FINAL = {"x-should-retry": "false"}
#: When the limits of the tests end, 15:05 UTC the day after tomorrow: agents say it to the minute,
#: and with its date when it is more than a day away.
RESETS_AT = (int(time.time()) // 86_400 + 2) * 86_400 + 54_300
#: 2100-01-01, a reset that no test lives to see.
_FAR = 4_102_444_800


@dataclass(frozen=True, slots=True)
class Answer:
    """How one turn is answered. `held`: the stream stays open until `Model.release`, so the agent
    is busy; `command`: the model asks to run it in a shell; `question`: it asks the user; `tool`:
    it uses this tool with this input (both Claude only); `status`: an HTTP error instead;
    `resets_at`: when a usage limit ends, in seconds since 1970; 0: the 429 is another limit."""

    text: str = "Noted."
    held: bool = False
    command: str = ""
    question: str = ""
    tool: tuple[str, dict[str, Any]] | None = None
    status: int = 200
    resets_at: int = _FAR


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of the conversation: when it came (monotonic), what the user has said in it since
    the model last answered, what the user has said in it at all, and the whole request."""

    at: float
    new: tuple[str, ...]
    said: tuple[str, ...]
    body: dict[str, Any] = field(repr=False)


class Model:
    """The server; use it in a `with`. Turns are answered by the plan, then by `usual`."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.others: list[dict[str, Any]] = []  # requests outside the conversation: titles
        self.plan: deque[Answer] = deque()
        self.usual = Answer()
        self._released = threading.Event()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"model": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def said(self) -> tuple[str, ...]:
        """All that the user said in the conversation, as its newest request has it: each once."""
        return self.turns[-1].said if self.turns else ()

    def count(self, text: str) -> int:
        """How many times the user said something that contains `text`."""
        return sum(said.count(text) for said in self.said)

    def then(self, *answers: Answer) -> None:
        """Plans the answers to the next turns."""
        self._released.clear()
        self.plan.extend(answers)

    def release(self) -> None:
        """Ends the streams that are held."""
        self._released.set()

    def __enter__(self) -> Model:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join(5)
        self._http.server_close()

    def take(self, body: dict[str, Any], said: list[str | None]) -> Answer:
        """Records a request and says how to answer it. `said`: the texts of the user in the
        conversation, None for each answer of the model."""
        with self._lock:
            if not body.get("tools"):  # a request for a title, outside the conversation
                self.others.append(body)
                return Answer('{"title": "Work"}')
            mine = [text for text in said if text is None or not text.startswith(_ADDED)]
            answered = max((i + 1 for i, text in enumerate(mine) if text is None), default=0)
            new = tuple(text for text in mine[answered:] if text is not None)
            every = tuple(text for text in mine if text is not None)
            self.turns.append(Turn(time.monotonic(), new, every, body))
            return self.plan.popleft() if self.plan else self.usual

    def wait_for_release(self, interval: float) -> Iterator[None]:
        """Yields each `interval` seconds until the held streams are released."""
        end = time.monotonic() + _WAIT_AT_MOST
        while time.monotonic() < end and not self._released.wait(interval):
            yield


class _Handler(BaseHTTPRequestHandler):
    """One connection of an agent."""

    model: Model

    def do_HEAD(self) -> None:
        self._reply(200, b"", "text/plain")

    def do_GET(self) -> None:
        self._reply(200, b"{}", "application/json")

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path.partition("?")[0]
        if path not in _APIS:
            self._reply(200, b"{}", "application/json")
            return
        try:
            self._answer(_APIS[path](self.model, json.loads(raw)))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the agent was interrupted or ended

    def _answer(self, api: _Claude | _Codex) -> None:
        if api.answer.status != 200:
            error = json.dumps(api.error()).encode()
            self._reply(api.answer.status, error, "application/json", _headers(api.answer))
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for event in api.events():
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()

    def _reply(
        self, status: int, body: bytes, kind: str, more: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, **(more or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def _headers(answer: Answer) -> dict[str, str]:
    """What comes with an error. Claude Code believes these of its subscribers' limits."""
    if answer.status != 429 or not answer.resets_at:
        return _FINAL
    unified = {"status": "rejected", "reset": str(answer.resets_at)}
    unified |= {"representative-claim": "five_hour", "5h-status": "rejected"}
    return _FINAL | {f"anthropic-ratelimit-unified-{key}": unified[key] for key in unified}


class _Claude:
    """POST /v1/messages."""

    def __init__(self, model: Model, body: dict[str, Any]) -> None:
        self.model = model
        self.name = str(body.get("model"))
        self.answer = model.take(body, self._said(body["messages"]))

    @staticmethod
    def _said(messages: list[dict[str, Any]]) -> list[str | None]:
        said: list[str | None] = []
        for message in messages:
            content = message["content"]
            if message["role"] == "assistant":
                said.append(None)
            elif isinstance(content, str):
                said.append(content)
            else:
                said.extend(block["text"] for block in content if block["type"] == "text")
        return said

    def error(self) -> dict[str, Any]:
        sorts = {429: "rate_limit_error", 401: "authentication_error"}
        whats = {
            429: "This request would exceed your account's rate limit.",
            401: "invalid x-api-key",
        }
        status = self.answer.status
        error = {"type": sorts.get(status, "api_error"), "message": whats.get(status, "Overloaded")}
        return {"type": "error", "error": error}

    def events(self) -> Iterator[dict[str, Any]]:
        usage = {"input_tokens": 10, "output_tokens": 1}
        message: dict[str, Any] = {
            "id": f"msg_{time.monotonic_ns():x}",
            "type": "message",
            "role": "assistant",
            "model": self.name,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        yield {"type": "message_start", "message": message}
        yield from self._block(0, {"type": "text", "text": ""})
        if self.answer.held:
            for _ in self.model.wait_for_release(_PING):
                yield {"type": "ping"}
        yield self._delta(0, {"type": "text_delta", "text": self.answer.text})
        yield {"type": "content_block_stop", "index": 0}
        reason = "end_turn"
        if self.answer.command or self.answer.question or self.answer.tool:
            reason = "tool_use"
            yield from self._tool()
        yield {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": None},
            "usage": {"output_tokens": 5},
        }
        yield {"type": "message_stop"}

    def _tool(self) -> Iterator[dict[str, Any]]:
        name, told = self.answer.tool or ("Bash", _bash(self.answer.command))
        if self.answer.question:
            name, told = "AskUserQuestion", _question(self.answer.question)
        call = {"type": "tool_use", "id": f"toolu_{time.monotonic_ns():x}", "name": name}
        yield from self._block(1, {**call, "input": {}})
        yield self._delta(1, {"type": "input_json_delta", "partial_json": json.dumps(told)})
        yield {"type": "content_block_stop", "index": 1}

    def _block(self, index: int, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield {"type": "content_block_start", "index": index, "content_block": block}

    def _delta(self, index: int, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": delta}


def _bash(command: str) -> dict[str, Any]:
    return {"command": command, "description": "Does what was asked"}


def _question(text: str) -> dict[str, Any]:
    options = [{"label": label, "description": f"It is {label}."} for label in ("Red", "Blue")]
    one = {"question": text, "header": "Choice", "options": options, "multiSelect": False}
    return {"questions": [one]}


class _Codex:
    """POST /v1/responses."""

    def __init__(self, model: Model, body: dict[str, Any]) -> None:
        self.model = model
        self.answer = model.take(body, self._said(body["input"]))
        self.response: dict[str, Any] = {
            "id": f"resp_{time.monotonic_ns():x}",
            "object": "response",
            "output": [],
        }

    @staticmethod
    def _said(items: list[dict[str, Any]]) -> list[str | None]:
        said: list[str | None] = []
        for item in items:
            if item.get("role") == "assistant" or item["type"] == "function_call":
                said.append(None)
            elif item["type"] == "message" and item["role"] == "user":
                parts = item["content"]
                said.extend(part["text"] for part in parts if part["type"] == "input_text")
        return said

    def error(self) -> dict[str, Any]:
        if self.answer.status == 429 and self.answer.resets_at:
            what = "The usage limit has been reached"
            when: dict[str, Any] = {"plan_type": "plus"}
            if self.answer.resets_at != _FAR:
                when["resets_at"] = self.answer.resets_at
            return {"error": {"type": "usage_limit_reached", "message": what, **when}}
        return {"error": {"type": "server_error", "message": "Refused"}}

    def events(self) -> Iterator[dict[str, Any]]:
        yield {"type": "response.created", "response": {**self.response, "status": "in_progress"}}
        item: dict[str, Any] = {
            "type": "message",
            "id": f"msg_{time.monotonic_ns():x}",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        if self.answer.held:
            for _ in self.model.wait_for_release(_PING):
                yield {"type": "response.in_progress", "response": self.response}
        yield {"type": "response.output_item.added", "output_index": 0, "item": item}
        text = self.answer.text
        at = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        yield {"type": "response.output_text.delta", **at, "delta": text}
        part = {"type": "output_text", "text": text, "annotations": []}
        done = {**item, "status": "completed", "content": [part]}
        yield {"type": "response.output_item.done", "output_index": 0, "item": done}
        if self.answer.command:
            yield from self._tool()
        usage: dict[str, Any] = {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 15,
        }
        done = {**self.response, "status": "completed", "usage": usage}
        yield {"type": "response.completed", "response": done}

    def _tool(self) -> Iterator[dict[str, Any]]:
        yield {
            "type": "response.output_item.done",
            "output_index": 1,
            "item": {
                "type": "function_call",
                "id": f"fc_{time.monotonic_ns():x}",
                "call_id": f"call_{time.monotonic_ns():x}",
                "name": "exec_command",
                "arguments": json.dumps(
                    {
                        "cmd": self.answer.command,
                        "sandbox_permissions": "require_escalated",
                        "justification": "May I run this?",
                    }
                ),
            },
        }


_APIS: dict[str, Any] = {"/v1/messages": _Claude, "/v1/responses": _Codex}
