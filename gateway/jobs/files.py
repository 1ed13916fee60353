"""OpenAI's Files: uploads that pass through to the store in pieces, lists, contents that stream out again.

An upload is held back by the store: what has come and is not stored yet is at most about one megabyte, whatever the
file's size. Its fields may come in any order; `expires_after` behind a large file is refused, since the file is on
its way to the store by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable

from gateway.config.types import Config
from gateway.core.errors import BadRequest, HeadwayError, Refused
from gateway.jobs.base import PIECE, Store, StoreUnavailable, Writer
from gateway.jobs.desk import Desk, Said, Visit, in_time, unwanted
from gateway.jobs.model import File
from gateway.jobs.objects import deleted_file, file_object
from gateway.jobs.query import Query, listed
from gateway.jobs.upload import Form
from gateway.wire.above import Answering, Sink
from gateway.wire.reply import Reply

PURPOSE = "batch"
_HELD = 4 * PIECE  # bytes that may wait for the store
_FORM = 64 * 1024  # what the form may add to its file
_UPLOADS, _OF_ONE = 64, 16  # at one time, of all and of one tenant: what they hold together is bounded
_PAGE = 1000  # files in one answer, whatever limit is asked for: making it takes the loop a few milliseconds
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_KNOWN = frozenset(("purpose", _ANCHOR, _SECONDS))
_LIFE = (3600, 30 * 86_400)  # seconds, from and to
_NUMBER = re.compile(r"[0-9]{1,9}")


class Files:
    """What is asked of files. `config` may be replaced."""

    def __init__(self, store: Store, desk: Desk, config: Config):
        self.store = store
        self.desk = desk
        self.config = config
        self.uploads: Counter[str] = Counter()  # that go on, by tenant

    async def list(self, visit: Visit) -> Said:
        query = Query(visit.head.query)
        page = await in_time(self.store.files(
            visit.tenant, after=query.after(), limit=min(query.limit(10_000, 10_000), _PAGE),
            order=query.order(), purpose=query.purpose(),
        ))  # fmt: skip
        return Said(listed(page, file_object))

    async def get(self, visit: Visit, id_: str) -> Said:
        return Said(file_object(await in_time(self.store.file(visit.tenant, id_))))

    async def delete(self, visit: Visit, id_: str) -> Said:
        await in_time(self.store.delete_file(visit.tenant, id_, time.time()))
        return Said(deleted_file(id_))

    async def content(self, visit: Visit, id_: str, reply: Reply) -> None:
        """The file's bytes, no faster than the client takes them."""
        file: File = await in_time(self.store.file(visit.tenant, id_))
        fields = (b"content-type: application/octet-stream\r\nx-request-id: %b\r\n"
                  b"content-disposition: attachment\r\n" % visit.request_id.encode())  # fmt: skip
        pieces = self.store.read(visit.tenant, id_)
        piece = b""
        if visit.head.method != b"HEAD":
            piece = await in_time(anext(pieces, b""))  # before the head: it may have been deleted meanwhile
        reply.start(200, fields, file.bytes, piece)
        while piece:
            await reply.drained()
            piece = await in_time(anext(pieces, b""))
            reply.write(piece)
        reply.end()

    def upload(self, visit: Visit) -> Sink:
        """What takes a new file. Raises BadRequest where the head shows that it is none."""
        if self.uploads.total() >= _UPLOADS or self.uploads[visit.tenant] >= _OF_ONE:
            raise Refused("too many files are being uploaded at once", reason="jobs_unavailable", status=503,
                          retry_after=1.0)  # fmt: skip
        return Upload(self, visit)


class Upload(Sink):
    """One file on its way into the store: the form is read as it comes, a task stores what comes out of it."""

    def __init__(self, files: Files, visit: Visit):
        limit = files.config.limits.file
        self.limit = limit + _FORM
        self._files = files
        self._visit = visit
        self._form = Form(visit.head.named.get(b"content-type", b""), _KNOWN, limit)
        self._parts: list[bytes] = []
        self._held = 0
        self._is_whole = False
        self._more = asyncio.Event()

    # --- the listener's side -------------------------------------------------------------------------------------

    def begin(self, resume: Callable[[], None]) -> None:
        self._resume = resume
        self._files.uploads[self._visit.tenant] += 1
        self._stored = self._files.desk.spawn(self._store())
        self._stored.add_done_callback(self._over)

    def write(self, data: bytes) -> bool:
        self._visit.bytes_in += len(data)
        failure = self._failure()
        if failure is None:
            try:
                found = self._form.feed(data)
                if "purpose" in self._form.values:
                    self._check_purpose()
            except BadRequest as error:
                failure = error
        if failure is not None:
            self._stored.cancel()
            raise unwanted(self._files.desk, self._visit, failure)
        if found:
            self._parts.append(found)
            self._held += len(found)
            if self._held >= PIECE:
                self._more.set()
        return self._held < _HELD

    def finish(self, reply: Reply) -> Answering | None:
        self._is_whole = True
        self._more.set()
        return self._files.desk.begin(self._visit, reply, self._answer)

    def abort(self) -> None:
        self._stored.cancel()

    # --- the store's side ----------------------------------------------------------------------------------------

    async def _answer(self) -> Said:
        return Said(file_object(await self._stored))

    async def _store(self) -> File:
        writer: Writer | None = None
        try:
            while data := await self._next():
                if writer is None:
                    writer = await self._new_file()
                await in_time(writer.write(data))
            self._form.close()
            self._check_purpose()
            if writer is not None and self._life() != self._expires:
                raise BadRequest("put expires_after before the file", code="invalid_form", param=_ANCHOR)
            if writer is None:
                raise BadRequest("the file is empty", code="empty_file", param="file")
            made: File = await in_time(writer.finish(self._at))  # of which `expires_at` counts
            return made
        except BaseException:
            if writer is not None:  # beside: neither the client nor who stops us waits for it
                self._files.desk.spawn(_abandon(writer))
            raise

    async def _next(self) -> bytes:
        """What has come, about a piece of it at least; nothing once all has."""
        if not self._is_whole:
            await self._more.wait()
        data = b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        if not self._is_whole:
            self._more.clear()
        self._resume()
        return data

    async def _new_file(self) -> Writer:
        """Called with the first piece: by then a small form has been read whole, so its fields may stand anywhere."""
        self._at = at = time.time()
        self._expires = life = self._life()
        made: Writer = await in_time(self._files.store.new_file(
            self._visit.tenant, self._form.filename or "", PURPOSE, at, None if life is None else at + life
        ))  # fmt: skip
        return made

    def _over(self, stored: asyncio.Task[File]) -> None:
        self._files.uploads -= Counter({self._visit.tenant: 1})  # (which forgets who has none left)
        if not stored.cancelled():
            stored.exception()  # looked at here, so that nobody calls it forgotten where the client has left
        self._parts.clear()
        self._held = 0
        self._resume()  # the next piece, or the end of the body, brings the answer

    def _failure(self) -> HeadwayError | None:
        """Why the store's side has ended before the file has."""
        if not self._stored.done():
            return None
        if self._stored.cancelled():
            return StoreUnavailable("the gateway is stopping")
        error = self._stored.exception()
        return error if isinstance(error, HeadwayError) else HeadwayError("an internal error")

    # --- the fields ----------------------------------------------------------------------------------------------

    def _check_purpose(self) -> None:
        purpose = self._form.values.get("purpose")
        if purpose is None:
            raise BadRequest("Missing required parameter: 'purpose'.", code="missing_required_parameter",
                             param="purpose")  # fmt: skip
        if purpose != PURPOSE:
            raise BadRequest(f"'{purpose[:100]}' is not one of ['{PURPOSE}'] - 'purpose'", code="invalid_value",
                             param="purpose")  # fmt: skip

    def _life(self) -> int | None:
        """Seconds until the file expires, as `expires_after` says."""
        values = self._form.values
        anchor, seconds = values.get(_ANCHOR), values.get(_SECONDS)
        if anchor is None and seconds is None:
            return None
        if anchor != "created_at":
            raise BadRequest("expires_after[anchor] is 'created_at'", code="invalid_value", param=_ANCHOR)
        return checked_life(int(seconds) if seconds and _NUMBER.fullmatch(seconds) else None, _SECONDS)


async def _abandon(writer: Writer) -> None:
    with contextlib.suppress(HeadwayError):  # what is left behind is cleared away by the store in time
        await in_time(writer.abort())


def checked_life(seconds: int | None, param: str) -> int:
    """Raises BadRequest for what is outside of what OpenAI allows."""
    if seconds is None or not _LIFE[0] <= seconds <= _LIFE[1]:
        raise BadRequest(f"{param} is a number from {_LIFE[0]} to {_LIFE[1]}", code="invalid_value", param=param)
    return seconds
