"""Values that stores keep as bytes in one field: a result without its body, header fields, metadata, errors."""

from __future__ import annotations

import msgspec

from gateway.jobs.model import LineError, Result, Usage

Pairs = tuple[tuple[str, str], ...]
Fields = tuple[tuple[bytes, bytes], ...]


class _Head(msgspec.Struct, array_like=True):
    status: int
    content_type: str
    request_id: str
    usage: Usage
    error: tuple[str, str] | None


def pack_head(result: Result) -> bytes:
    """All of a result but its body, as JSON."""
    return msgspec.json.encode(_Head(result.status, result.content_type, result.request_id, result.usage, result.error))


def unpack_result(head: bytes, body: bytes) -> Result:
    known = msgspec.json.decode(head, type=_Head)
    return Result(known.status, body, known.content_type, known.request_id, known.usage, known.error)


def pack_fields(fields: Fields) -> bytes:
    return msgspec.msgpack.encode(fields)


def unpack_fields(data: bytes) -> Fields:
    return msgspec.msgpack.decode(data, type=Fields)


def pack_metadata(metadata: Pairs) -> bytes:
    return msgspec.json.encode(metadata)


def unpack_metadata(data: bytes) -> Pairs:
    return msgspec.json.decode(data, type=Pairs)


def pack_errors(errors: tuple[LineError, ...]) -> bytes:
    return msgspec.json.encode(errors)


def unpack_errors(data: bytes) -> tuple[LineError, ...]:
    return msgspec.json.decode(data, type=tuple[LineError, ...])
