"""How the operators' listener answers: values and errors as JSON."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web


def json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    body = msgspec.json.encode(value) + b"\n"
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None, **more: object
) -> web.Response:
    return json({"error": {"message": message, "code": code, **more}}, status, headers)
