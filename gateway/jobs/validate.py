"""Is every line of a batch's input file a request that may run? Asked before any of them does: all or nothing.

The file is read in pieces and checked beside the traffic: half a millisecond at a time, a fifth of the time in all, so
that people's requests hardly notice even a file of 50,000 lines. Each line is checked by the very code that takes
requests (`intake`), so what passes here is refused later only if the configuration changes in between. The store is
told the lines as they are found; nothing runs until all are.

Lines get a key by which prompts that begin alike run one after another, so that the model server's prefix cache serves
them (the idea of BatchLLM, arXiv:2412.03594, which groups a batch by its common prefixes before it runs).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from math import nan

import msgspec

from gateway.config.types import Key
from gateway.core.errors import BadRequest
from gateway.core.types import Request
from gateway.intake import Intake
from gateway.jobs.base import Store, StoreUnavailable
from gateway.jobs.model import Batch, Item, LineError
from gateway.wire.head import RequestHead

LINES = 50_000
EMBEDDINGS = "/v1/embeddings"
INPUTS = 50_000  # of all lines of a batch of embeddings together
_ERRORS = 100  # listed; more tell nobody more
_CHUNK = 500  # lines told to the store at once
_ID = 512  # longest custom_id, in characters
_BOM = b"\xef\xbb\xbf"
_SLICE, _PAUSE = 0.0005, 4.0  # seconds of work at a time; the pause after it is this many times as long
_DEPTHS = tuple(128 << step for step in range(16))  # bytes of a prompt, each looked at with all before it


class _Line(msgspec.Struct):
    """One line of the file."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Embedding(msgspec.Struct):
    input: msgspec.Raw = msgspec.Raw()


_decoder = msgspec.json.Decoder(_Line)
_embedding = msgspec.json.Decoder(_Embedding)
_inputs = msgspec.json.Decoder(list[msgspec.Raw])


class Lines:
    """The lines of one file, judged one after the other. `errors` is what is wrong so far."""

    def __init__(self, batch: Batch, key: Key, intake: Intake, longest: int):
        self.errors: list[LineError] = []
        self.total = 0
        self.model = ""
        self._batch = batch
        self._head = RequestHead.made(batch.endpoint.encode(), ((b"content-type", b"application/json"),))
        self._key = key
        self._intake = intake
        self._longest = longest
        self._ids: set[bytes] = set()
        self._inputs = 0

    def judge(self, number: int, offset: int, line: bytes) -> Item | None:
        """One line, without its end; `offset` is where it begins. None: it is empty or wrong."""
        if number == 1 and line.startswith(_BOM):
            offset, line = offset + len(_BOM), line[len(_BOM) :]
        if not line.strip():
            return None
        self.total += 1
        try:
            if self.total > LINES:
                raise BadRequest(f"The file has more than {LINES} requests.", code="too_many_requests")
            found = self._parsed(line)
            self._check_head(found)
            body = bytes(found.body)
            request = self._checked(body)
        except BadRequest as error:
            self.errors.append(LineError(error.code, error.message, number, error.param))
            return None
        at = _place(line, body)
        return Item(number, found.custom_id, offset + at, len(body), prefix_key(request.prompt))

    @property
    def is_hopeless(self) -> bool:
        return len(self.errors) >= _ERRORS or self.total > LINES

    def _parsed(self, line: bytes) -> _Line:
        if len(line) > self._longest:
            raise BadRequest(f"This line is longer than {self._longest} bytes.", code="line_too_long")
        try:
            line.decode("utf-8")  # the decoder does not look inside what it skips
            return _decoder.decode(line)
        except msgspec.ValidationError as error:
            raise _wrong_member(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadRequest("This line is not parseable as valid JSON.", code="invalid_json_line") from None

    def _check_head(self, found: _Line) -> None:
        if not 1 <= len(found.custom_id) <= _ID:
            raise BadRequest(f"custom_id has 1 to {_ID} characters.", code="invalid_custom_id", param="custom_id")
        mark = hashlib.blake2b(found.custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if mark in self._ids:
            raise BadRequest(f"The custom_id '{found.custom_id[:100]}' is used by more than one request.",
                             code="duplicate_custom_id", param="custom_id")  # fmt: skip
        self._ids.add(mark)
        if found.method != "POST":
            raise BadRequest("The method of every request is POST.", code="invalid_method", param="method")
        if found.url != self._batch.endpoint:
            raise BadRequest(f"The url '{found.url[:100]}' is not the batch's endpoint '{self._batch.endpoint}'.",
                             code="invalid_url", param="url")  # fmt: skip

    def _checked(self, body: bytes) -> Request:
        """The request that the body stands for."""
        if body[:1] != b"{":
            raise BadRequest("The body is not a JSON object.", code="invalid_body", param="body")
        request = self._intake.of_job(self._head, body, self._key, self._batch.klass, "", nan).request
        if request.stream:
            raise BadRequest("Answers of a batch cannot be streamed.", code="stream_not_allowed", param="body.stream")
        if self.model and request.model != self.model:
            raise BadRequest(f"This request is for the model '{request.model}', those before it for '{self.model}': "
                             "a batch is for one model.", code="mismatched_model", param="body.model")  # fmt: skip
        self.model = request.model
        if self._batch.endpoint == EMBEDDINGS:
            self._inputs += count_inputs(body)
            if self._inputs > INPUTS:
                raise BadRequest(f"The file has more than {INPUTS} inputs to embed.", code="too_many_inputs")
        return request


class Validator:
    """Takes batches in `validating`, one at a time, to their start or their failure.

    `intake` gives the configuration in force, `longest` the longest line. Raises StoreUnavailable; the batch is then
    begun again, by this process or by another that shares its store.
    """

    LEASE = 60.0  # seconds a batch stays with a validator that says nothing

    def __init__(self, store: Store, owner: str, intake: Callable[[], Intake], longest: Callable[[], int]):
        self._store = store
        self._owner = owner
        self._intake = intake
        self._longest = longest
        self._turns = 0

    async def next(self) -> bool:
        """Validate the oldest batch that waits for it; False if none does."""
        batch = await self._claim()
        if batch is None:
            return False
        intake = self._intake()
        key = intake.key_of(batch.key_digest)
        if key is None or key.tenant != batch.tenant:
            error = LineError("invalid_api_key", "The key that made this batch is no longer valid.")
            await self._store.fail(batch.id, [error], time.time())
            return True
        lines = Lines(batch, key, intake, self._longest())
        try:
            if await self._read(batch, lines):
                await self._decide(batch, lines)
        except StoreUnavailable:
            raise
        except Exception:  # a bug of ours: go on as somebody else, or the store would give us this batch again
            self._turns += 1
            raise
        return True

    async def _claim(self) -> Batch | None:
        at = time.time()
        return await self._store.claim_validation(f"{self._owner}-{self._turns}", at + self.LEASE, at)

    async def _read(self, batch: Batch, lines: Lines) -> bool:
        """Judge all lines. False: the batch is no longer ours to judge."""
        found = Splitter(self._longest())
        renew_at = time.monotonic() + self.LEASE / 3
        async for piece in self._store.read_input(batch.id):
            if not await self._judge(batch, lines, found.feed(piece)):
                return False
            if lines.is_hopeless:
                return True
            if time.monotonic() > renew_at:
                renew_at = time.monotonic() + self.LEASE / 3
                held = await self._claim()
                if held is None or held.id != batch.id:
                    return False
        return await self._judge(batch, lines, found.rest())

    async def _judge(self, batch: Batch, lines: Lines, found: Iterable[tuple[int, int, bytes]]) -> bool:
        """A piece's lines, slice by slice."""
        items: list[Item] = []
        began = time.perf_counter()
        for number, offset, line in found:
            item = lines.judge(number, offset, line)
            if item is not None:
                items.append(item)
            if lines.is_hopeless:
                return True
            worked = time.perf_counter() - began
            if worked >= _SLICE:
                await asyncio.sleep(worked * _PAUSE)
                began = time.perf_counter()
            if len(items) >= _CHUNK:
                if not await self._store.add_items(batch.id, items):
                    return False
                items = []
                began = time.perf_counter()
        return not items or bool(lines.errors) or await self._store.add_items(batch.id, items)

    async def _decide(self, batch: Batch, lines: Lines) -> None:
        errors = lines.errors
        if not errors and not lines.total:
            errors = [LineError("empty_file", "The input file has no requests.")]
        if errors:
            await self._store.fail(batch.id, errors, time.time())
        else:
            await self._store.start(batch.id, lines.total, lines.model, time.time())


class Splitter:
    """A file's lines as (number from 1, offset, bytes without LF or CRLF). Of one over `longest` only a part comes."""

    def __init__(self, longest: int):
        self._longest = longest
        self._number = 0
        self._offset = 0  # of the line that is being read
        self._held: list[bytes] = []
        self._size = 0  # of it so far, what is not held included

    def feed(self, piece: bytes) -> Iterator[tuple[int, int, bytes]]:
        """The lines that end in this piece: go through them all before the next one."""
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            self._hold(piece[start:end])
            yield self._line()
            self._offset += self._size + 1
            self._held, self._size = [], 0
            start = end + 1
        self._hold(piece[start:])

    def rest(self) -> Iterator[tuple[int, int, bytes]]:
        """What stands behind the last line end."""
        if self._size:
            yield self._line()

    def _hold(self, part: bytes) -> None:
        if self._size <= self._longest:
            self._held.append(part)
        self._size += len(part)

    def _line(self) -> tuple[int, int, bytes]:
        self._number += 1
        line = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        return self._number, self._offset, line[:-1] if line.endswith(b"\r") else line


def prefix_key(prompt: bytes) -> bytes:
    """At most 64 bytes, such that prompts which begin alike have keys that begin alike."""
    marks, before, mark = [], 0, 0
    for depth in _DEPTHS:
        mark = zlib.crc32(prompt[before:depth], mark)
        marks.append(mark.to_bytes(4, "big"))
        if depth >= len(prompt):
            break
        before = depth
    return b"".join(marks)


def count_inputs(body: bytes) -> int:
    """How many texts a request for embeddings has: a string is one, and so is a list of tokens."""
    raw = bytes(_embedding.decode(body).input)
    if raw[:1] != b"[":
        return 1
    inputs = _inputs.decode(raw)
    return len(inputs) if inputs and bytes(inputs[0])[:1] in (b'"', b"[") else 1


def _place(line: bytes, body: bytes) -> int:
    """Where in the line the body stands: at its end, as a rule. Of equal places any will do."""
    at = len(line.rstrip()) - 1 - len(body)
    return at if at > 0 and line.startswith(body, at) else line.index(body)


def _wrong_member(text: str) -> BadRequest:
    """A line that is JSON, but not an object with the four members."""
    what, _, where = text.partition(" - at `$")
    if "missing required field" in what:
        name = what.partition("`")[2].rstrip("`")
        return BadRequest(f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name)
    param = where.strip("`.") or None
    return BadRequest(f"This line is not what is expected: {what}.", code="invalid_value", param=param)
