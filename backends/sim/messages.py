"""The Anthropic way to write an answer (`/v1/messages`), with the events vLLM 0.32 sends."""

from typing import Any

from backends.sim.dialects import Answer, Dialect, Usage
from backends.sim.errors import dump

_REASONS = {"length": "max_tokens", "stop": "end_turn"}


def event(name: str, data: dict[str, Any]) -> bytes:
    """A named event; its type is repeated inside."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), dump({"type": name, **data}))


class Messages(Dialect):
    """`/v1/messages`."""

    prefix = "chatcmpl-"

    def opening(self, choice: int, usage: Usage) -> bytes:
        message: dict[str, Any] = {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self.ask.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": usage.prompt, "output_tokens": 0},
        }
        block = {"content_block": {"type": "text", "text": ""}, "index": 0}
        return event("message_start", {"message": message}) + event("content_block_start", block)

    def token(self, choice: int, text: str, usage: Usage | None) -> bytes:
        delta = b'{"type":"content_block_delta","delta":{"type":"text_delta","text":"%b"},"index":0}' % text.encode()
        return b"event: content_block_delta\ndata: %b\n\n" % delta

    def last(self, choice: int, text: str, reason: str, usage: Usage | None) -> bytes:
        return self.token(choice, text, usage)

    def closing(self, answers: list[Answer], usage: Usage) -> bytes:
        delta = {"stop_reason": _REASONS[answers[0].reason], "stop_sequence": None}
        message = {"delta": delta, "usage": {"input_tokens": usage.prompt, "output_tokens": usage.output}}
        return event("content_block_stop", {"index": 0}) + event("message_delta", message) + event("message_stop", {})

    def body(self, answers: list[Answer], usage: Usage) -> bytes:
        answer = {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": answers[0].text}],
            "model": self.ask.model,
            "stop_reason": _REASONS[answers[0].reason],
            "usage": {"input_tokens": usage.prompt, "output_tokens": usage.output},
        }
        return dump(answer)
