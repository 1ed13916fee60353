"""The OpenAI Responses way to write an answer (`/v1/responses`), with the events vLLM 0.32 sends."""

from typing import Any

from backends.sim.ask import Ask
from backends.sim.dialects import Answer, Dialect, Usage
from backends.sim.errors import dump


class Responses(Dialect):
    """`/v1/responses`. Events are numbered, so nothing but a token's frame can be rendered beforehand."""

    prefix = "resp_"

    def __init__(self, ask: Ask, request_id: str, created: int) -> None:
        super().__init__(ask, request_id, created)
        self._item = f"msg_{request_id}"
        self._number = 0

    def at_once(self) -> bytes:
        started = {"response": self._response("in_progress", [], None)}
        return self._numbered("response.created", started) + self._numbered("response.in_progress", started)

    def opening(self, choice: int, usage: Usage) -> bytes:
        item = {"item": self._message("in_progress", []), "output_index": 0}
        part = {"content_index": 0, "item_id": self._item, "output_index": 0, "part": _part("", [])}
        added = self._numbered("response.output_item.added", item)
        return added + self._numbered("response.content_part.added", part)

    def token(self, choice: int, text: str, usage: Usage | None) -> bytes:
        delta = {"content_index": 0, "delta": text, "item_id": self._item, "logprobs": [], "output_index": 0}
        return self._numbered("response.output_text.delta", delta)

    def last(self, choice: int, text: str, reason: str, usage: Usage | None) -> bytes:
        return self.token(choice, text, usage)

    def closing(self, answers: list[Answer], usage: Usage) -> bytes:
        text = answers[0].text
        place = {"content_index": 0, "item_id": self._item, "output_index": 0}
        message = self._message("completed", [_part(text, None)])
        return (
            self._numbered("response.output_text.done", {**place, "logprobs": [], "text": text})
            + self._numbered("response.content_part.done", {**place, "part": _part(text, None)})
            + self._numbered("response.output_item.done", {"item": message, "output_index": 0})
            + self._numbered("response.completed", {"response": self._finished(answers[0], usage)})
        )

    def body(self, answers: list[Answer], usage: Usage) -> bytes:
        return dump(self._finished(answers[0], usage))

    def _numbered(self, kind: str, data: dict[str, Any]) -> bytes:
        event = {**data, "sequence_number": self._number, "type": kind}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), dump(event))

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        message = {"id": self._item, "content": content, "role": "assistant", "status": status}
        return message | {"type": "message", "phase": None}

    def _finished(self, answer: Answer, usage: Usage) -> dict[str, Any]:
        status = "incomplete" if answer.reason == "length" else "completed"
        return self._response(status, [self._message("completed", [_part(answer.text, None)])], usage)

    def _response(self, status: str, output: list[dict[str, Any]], usage: Usage | None) -> dict[str, Any]:
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self.id,
            "created_at": self.created,
            "incomplete_details": details,
            "instructions": None,
            "metadata": None,
            "model": self.ask.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0,
            "background": False,
            "max_output_tokens": self.ask.max_tokens,
            "previous_response_id": None,
            "prompt": None,
            "reasoning": None,
            "service_tier": "auto",
            "status": status,
            "text": None,
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
            "user": None,
        }


def _part(text: str, logprobs: list[Any] | None) -> dict[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": logprobs}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt + usage.output,
    }
