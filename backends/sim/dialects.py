"""How an answer is written down in each API: bodies and stream events with the fields vLLM 0.32 sends.

The idea: what does not change from token to token is rendered once per request, so an event is three byte strings
put together. Words of an answer need no JSON escapes (see `text.Speaker`). When something is written is decided by
the exchange; what can go wrong is in `errors`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from backends.sim.ask import Ask
from backends.sim.errors import dump

FINGERPRINT = "vllm-0.32.0-sim"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, all its choices together."""

    prompt: int
    output: int
    cached: int

    def openai(self) -> dict[str, Any]:
        """As chat and completions report it."""
        return {
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.output,
            "completion_tokens": self.output,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": None,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished choice: its text, its tokens and why it ended (`stop` or `length`)."""

    text: str
    tokens: int
    reason: str


class Dialect(ABC):
    """One API's way to write one answer. The base class is what completions and chat share."""

    prefix = ""
    kind = ""

    def __init__(self, ask: Ask, request_id: str, created: int) -> None:
        self.ask = ask
        self.id = f"{self.prefix}{request_id}"
        self.created = created
        self._tokens: dict[int, tuple[bytes, bytes]] = {}

    def at_once(self) -> bytes:
        """Events that need no token yet."""
        return b""

    def opening(self, choice: int, usage: Usage) -> bytes:
        """Events that come together with a choice's first token."""
        return b""

    def token(self, choice: int, text: str, usage: Usage | None) -> bytes:
        """The event of one token that is not the last. `usage` where the client wants it in every chunk."""
        if usage is not None:
            return self._event(self._choice(choice, text, None), usage)
        parts = self._tokens.get(choice)
        if parts is None:
            head, tail = self._event(self._choice(choice, "\x00", None), None).split(b"\\u0000")
            parts = self._tokens[choice] = (head, tail)
        return parts[0] + text.encode() + parts[1]

    def last(self, choice: int, text: str, reason: str, usage: Usage | None) -> bytes:
        """The event of a choice's last token."""
        extra = {} if self.ask.include_usage else {"system_fingerprint": FINGERPRINT}
        return self._event(self._choice(choice, text, reason), usage, **extra)

    def closing(self, answers: list[Answer], usage: Usage) -> bytes:
        """Events after the last token of the last choice."""
        if not self.ask.include_usage:
            return DONE
        return self._event(None, usage, system_fingerprint=FINGERPRINT) + DONE

    @abstractmethod
    def body(self, answers: list[Answer], usage: Usage) -> bytes:
        """The whole answer of a request that did not ask for a stream."""

    def _choice(self, choice: int, text: str, reason: str | None) -> dict[str, Any]:
        """One choice of an event. Dialects without choices write events of their own and never come here."""
        raise AssertionError(f"{type(self).__name__} has no choices")

    def _event(self, choice: dict[str, Any] | None, usage: Usage | None, **extra: Any) -> bytes:
        event: dict[str, Any] = {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.ask.model,
            "choices": [] if choice is None else [choice],
        }
        if usage is not None:
            event["usage"] = usage.openai()
        return b"data: " + dump(event | extra) + b"\n\n"


class Chat(Dialect):
    """`/v1/chat/completions`."""

    prefix = "chatcmpl-"
    kind = "chat.completion.chunk"

    def opening(self, choice: int, usage: Usage) -> bytes:
        delta = {"role": "assistant", "content": ""}
        first = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._event(
            first, usage if self.ask.usage_in_every_chunk else None, prompt_token_ids=None, prompt_text=None
        )

    def _choice(self, choice: int, text: str, reason: str | None) -> dict[str, Any]:
        event = {"index": choice, "delta": {"content": text}, "logprobs": None, "finish_reason": reason}
        return event | ({"stop_reason": None} if reason else {}) | {"token_ids": None}

    def body(self, answers: list[Answer], usage: Usage) -> bytes:
        message = {"refusal": None, "annotations": None, "audio": None, "function_call": None, "reasoning": None}
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, **message},
                "logprobs": None,
                "finish_reason": answer.reason,
                "stop_reason": None,
                "token_ids": None,
                "routed_experts": None,
            }
            for index, answer in enumerate(answers)
        ]
        whole = {"id": self.id, "object": "chat.completion", "created": self.created, "model": self.ask.model}
        prompt = {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None}
        return dump(whole | {"choices": choices} | _after(usage, prompt))


class Completion(Dialect):
    """`/v1/completions`."""

    prefix = "cmpl-"
    kind = "text_completion"

    def _choice(self, choice: int, text: str, reason: str | None) -> dict[str, Any]:
        return {
            "index": choice,
            "text": text,
            "logprobs": None,
            "finish_reason": reason,
            "stop_reason": None,
            "prompt_token_ids": None,
            "token_ids": None,
        }

    def body(self, answers: list[Answer], usage: Usage) -> bytes:
        nothing = {"token_ids": None, "prompt_logprobs": None, "prompt_token_ids": None, "routed_experts": None}
        choices = [
            {
                "index": index,
                "text": answer.text,
                "logprobs": None,
                "finish_reason": answer.reason,
                "stop_reason": None,
                **nothing,
            }
            for index, answer in enumerate(answers)
        ]
        whole = {"id": self.id, "object": self.kind, "created": self.created, "model": self.ask.model}
        return dump(whole | {"choices": choices} | _after(usage, {}))


def _after(usage: Usage, prompt: dict[str, Any]) -> dict[str, Any]:
    """The fields both bodies end with."""
    return {
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage.openai(),
        **prompt,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }
