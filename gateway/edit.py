"""The stated exceptions to "bytes pass unchanged": the model's name, and usage that only we asked for.

Where an alias or `as:` renamed the model on the way in, answers carry the client's spelling on the way out. Where
`usage: inject` asked the engine for usage on a stream, the extra event is taken out again. Only these bytes change.
"""

from __future__ import annotations

import json
import re

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_EMPTY_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_HELD = 32 << 20  # bytes of an unfinished event or plain answer that are held for editing


class Editor:
    """Edits one answer. `stream` works event by event, `plain` on a whole body."""

    __slots__ = ("_pattern", "_replacement", "_drop_usage", "_held")

    def __init__(self, upstream_name: str | None, client_name: str, drop_usage: bool):
        self._pattern = None
        self._replacement = b""
        if upstream_name is not None and upstream_name != client_name:
            spelled = {re.escape(json.dumps(upstream_name, ensure_ascii=flag).encode()) for flag in (True, False)}
            self._pattern = re.compile(rb'("model"\s*:\s*)(?:' + b"|".join(spelled) + rb")")
            self._replacement = json.dumps(client_name).encode()
        self._drop_usage = drop_usage
        self._held = b""

    @property
    def changes_plain(self) -> bool:
        return self._pattern is not None

    def stream(self, data: bytes) -> bytes:
        """Edit whole events; an unfinished one waits for its end."""
        text = self._held + data if self._held else data
        out = []
        at = 0
        for match in _EVENT_END.finditer(text, max(0, len(self._held) - 3)):
            event = text[at : match.end()]
            at = match.end()
            if self._drop_usage and b'"usage"' in event and _EMPTY_CHOICES.search(event):
                continue
            out.append(self.plain(event))
        self._held = text[at:]
        if len(self._held) > _HELD:
            out.append(self.rest())
        return b"".join(out)

    def rest(self) -> bytes:
        """What is still held when the stream ends."""
        held, self._held = self._held, b""
        return self.plain(held) if held else b""

    def plain(self, body: bytes) -> bytes:
        if self._pattern is None:
            return body
        replacement = self._replacement
        return self._pattern.sub(lambda match: match[1] + replacement, body)
