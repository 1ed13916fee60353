"""The `model` field of a multipart form (audio transcription): read, and replaced where an alias names it."""

from __future__ import annotations

import re

from gateway.core.errors import BadRequest

_BOUNDARY = re.compile(rb';[ \t]*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))[ \t]*(?:;|$)', re.IGNORECASE)
_MENTION = re.compile(rb"boundary[ \t]*\*?[ \t]*=", re.IGNORECASE)
_NAME = re.compile(rb'content-disposition:[^\r\n]*;\s*name="?model"?(?=[;\r\s]|$)', re.IGNORECASE)


def _span(content_type: bytes, body: bytes) -> tuple[int, int]:
    """Where the field's value is. Raises BadRequest when it is missing, repeated or no form at all."""
    match = _BOUNDARY.search(content_type)
    mentions = len(_MENTION.findall(content_type))
    if not content_type.lower().startswith(b"multipart/form-data") or match is None or mentions != 1:
        # Two boundaries, or what looks like one: the model server might read another form than we do.
        raise BadRequest("this path takes multipart/form-data with a boundary", code="invalid_form")
    delimiter = b"--" + (match[1] or match[2])
    spans = []
    at = body.find(delimiter)
    while at >= 0:
        start = at + len(delimiter)
        end = body.find(b"\r\n" + delimiter, start)
        if end < 0:
            break
        head_end = body.find(b"\r\n\r\n", start, end)
        if head_end >= 0 and _NAME.search(body, start, head_end):
            spans.append((head_end + 4, end))
        at = end + 2
    if len(spans) != 1:
        what = "no" if not spans else "more than one"
        raise BadRequest(f"the form has {what} field `model`", code="model_missing", param="model")
    return spans[0]


def form_model(content_type: bytes, body: bytes) -> str:
    """The model a form names."""
    start, end = _span(content_type, body)
    return body[start:end].decode("utf-8", "replace").strip()


def replace_form_model(content_type: bytes, body: bytes, name: str) -> bytes:
    start, end = _span(content_type, body)
    return body[:start] + name.encode() + body[end:]
