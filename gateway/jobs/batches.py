"""OpenAI's Batches: made, looked at, listed, cancelled. What makes their lines valid is `validate`'s business.

A batch belongs to one path, one class and one key: the class is the operator's for jobs (`jobs.class`) unless the
client asks for another; limits are counted against the key it was made with. Beyond OpenAI's `24h`, a window of other
whole hours is accepted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import msgspec

from gateway.config.types import Config
from gateway.core.errors import BadRequest
from gateway.intake import Intake
from gateway.jobs.base import NotFound, Store
from gateway.jobs.desk import Said, Visit, in_time, parse_body
from gateway.jobs.files import PURPOSE, checked_life
from gateway.jobs.model import Batch
from gateway.jobs.objects import EtaOf, batch_object
from gateway.jobs.query import Query, listed
from gateway.jobs.wishes import idempotency_key, job_class, no_single_wishes
from gateway.paths import Path

HOUR = 3600
_WINDOW = re.compile(r"([1-9][0-9]{0,2})h")
_HOURS = 720  # longest window
_PAIRS, _NAME, _VALUE = 16, 64, 512  # of metadata: how many, and how long


class _Expiry(msgspec.Struct, forbid_unknown_fields=True):
    anchor: str
    seconds: int


class _Wish(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request for a batch."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: _Expiry | None = None


class Batches:
    """What is asked of batches. `config` and `intake` may be replaced.

    `made` hears of new batches, `cancelled` that some are to stop.
    """

    def __init__(self, store: Store, config: Config, intake: Intake, made: Callable[[], None],
                 cancelled: Callable[[], None], eta: EtaOf):  # fmt: skip
        self._store = store
        self.config = config
        self.intake = intake
        self._made = made
        self._cancelled = cancelled
        self._eta = eta

    async def create(self, visit: Visit, body: bytes) -> Said:
        no_single_wishes(visit.head)
        wish: _Wish = parse_body(body, _Wish)
        hours = _hours(wish.completion_window)
        batch_path(self.intake, wish.endpoint)
        klass = job_class(self.config, visit.key, visit.head)
        metadata = None if wish.metadata is None else _checked_metadata(wish.metadata)
        expiry = wish.output_expires_after
        if expiry is not None and expiry.anchor != "created_at":
            raise BadRequest("output_expires_after.anchor is 'created_at'", code="invalid_value",
                             param="output_expires_after.anchor")  # fmt: skip
        life = None if expiry is None else checked_life(expiry.seconds, "output_expires_after.seconds")
        once = idempotency_key(visit.head)
        try:
            # The repeat of one that was made gets that one, whether or not its file is still there.
            await self._check_input(visit, wish.input_file_id, once is None)
            at = time.time()
            batch, is_new = await in_time(self._store.create_batch(
                visit.tenant, klass, wish.input_file_id, wish.endpoint, wish.completion_window, at + hours * HOUR, at,
                metadata=metadata, output_expires_after=life, key_digest=visit.key.digest or None, idempotency_key=once,
            ))  # fmt: skip
        except NotFound as error:
            raise BadRequest(error.message, code="file_not_found", param="input_file_id") from None
        if is_new:
            self._made()
        return Said(batch_object(batch))

    async def get(self, visit: Visit, id_: str) -> Said:
        batch: Batch = await in_time(self._store.batch(visit.tenant, id_))
        return Said(batch_object(batch, None if batch.ended else await in_time(self._eta(batch))))

    async def list(self, visit: Visit) -> Said:
        query = Query(visit.head.query)
        page = await in_time(self._store.batches(visit.tenant, after=query.after(), limit=query.limit(20, 100)))
        return Said(listed(page, batch_object))

    async def cancel(self, visit: Visit, id_: str) -> Said:
        batch: Batch = await in_time(self._store.cancel(visit.tenant, id_, time.time()))
        if batch.ended and batch.status != "cancelled":
            raise BadRequest(f"Cannot cancel a batch with status '{batch.status}'.", status=409, code="batch_ended")
        self._cancelled()
        return Said(batch_object(batch))

    async def _check_input(self, visit: Visit, id_: str, must_be_there: bool) -> None:
        """Raises BadRequest, and NotFound where it must be there."""
        try:
            file = await in_time(self._store.file(visit.tenant, id_))
        except NotFound:
            if must_be_there:
                raise
            return
        if file.purpose != PURPOSE:
            raise BadRequest(f"the purpose of the input file is '{file.purpose}', not '{PURPOSE}'",
                             code="invalid_value", param="input_file_id")  # fmt: skip


def batch_path(intake: Intake, endpoint: str) -> Path:
    """The path that a batch is for: one that is routed by the model in a JSON body. Raises BadRequest."""
    found = intake.paths.find(endpoint.encode("utf-8"))
    if found is None or not found[0].json or found[0].source != "body":
        raise BadRequest(
            f"'{endpoint[:100]}' is not one of ['/v1/chat/completions', '/v1/completions', '/v1/embeddings', "
            "'/v1/responses'] or another path with a model in its body - 'endpoint'",
            code="invalid_value", param="endpoint",
        )  # fmt: skip
    return found[0]


def _hours(window: str) -> int:
    match = _WINDOW.fullmatch(window)
    if match is None or int(match[1]) > _HOURS:
        raise BadRequest(f"'{window[:100]}' is not a window: '24h', or other whole hours from '1h' to '{_HOURS}h' - "
                         "'completion_window'", code="invalid_value", param="completion_window")  # fmt: skip
    return int(match[1])


def _checked_metadata(metadata: dict[str, str]) -> tuple[tuple[str, str], ...]:
    if len(metadata) > _PAIRS:
        raise BadRequest(f"metadata has at most {_PAIRS} pairs", code="invalid_value", param="metadata")
    for name, value in metadata.items():
        if len(name) > _NAME or len(value) > _VALUE:
            raise BadRequest(f"a key of metadata has at most {_NAME} characters, a value {_VALUE}",
                             code="invalid_value", param="metadata")  # fmt: skip
    return tuple(metadata.items())
