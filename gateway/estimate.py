"""How long a request will be, before the engine has said: tokens of the prompt and of the answer, per model.

Both follow what the engines report (`usage`): bytes of prompt JSON per token, and the mean output. That is all routing
needs: every recommended policy works with the running mean (science of output lengths: finding 5 and section 2.2 of
the project's research note, repeated in docs/policies.md).
"""

from __future__ import annotations

_WEIGHT = 0.02  # of one request in the running means
_BYTES_PER_TOKEN = 4.0
_OUTPUT = 200.0


class Lengths:
    """Running means of one model."""

    __slots__ = ("bytes_per_token", "output")

    def __init__(self) -> None:
        self.bytes_per_token = _BYTES_PER_TOKEN
        self.output = _OUTPUT

    def prompt_tokens(self, size: int) -> float:
        """Tokens of a prompt of `size` bytes."""
        return size / self.bytes_per_token + 1.0

    def output_tokens(self, limit: int | None) -> float:
        """Expected tokens of the answer, under the client's limit."""
        return self.output if limit is None else max(1.0, min(self.output, limit))

    def learn(self, size: int, prompt: float, output: float) -> None:
        """What the engine counted; NaN or negative where it did not."""
        if prompt > 0.0 and size > 0:
            ratio = size / prompt
            if 0.5 <= ratio <= 16.0:  # a template or an image may count for more than its bytes: no measure
                self.bytes_per_token += _WEIGHT * (ratio - self.bytes_per_token)
        if output > 0.0:
            self.output += _WEIGHT * (output - self.output)
