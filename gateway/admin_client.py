"""How verbs speak to a running gateway: one question to its admin listener, JSON back, or why not in words for people.

The idea: explain, plan, canary and rollback all ask the same listener. The operator's token goes to the address that
was given and to no other (no redirects), and the environment's proxy settings are for the outside, not for this.
Standard library only: it runs where the gateway does not.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

ADMIN = "http://127.0.0.1:9090"
TIMEOUT = 10.0
_MOST = 256 << 20  # bytes of one answer: a gateway's whole ring of records is a tenth of it
_MOST_WORDS = 64 << 10


class AdminError(Exception):
    """The gateway did not do it. The message says what, where and what to do; `status` is 0 where nobody answered."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def add_admin_arguments(parser: ArgumentParser) -> None:
    """`--admin` and `--token`, as all verbs have them."""
    parser.add_argument("--admin", metavar="URL", default=ADMIN, help="the admin listener (default: %(default)s)")
    parser.add_argument("--token", metavar="T", default=None, help="the admin token, where one is configured")


def is_url(text: str) -> bool:
    """Whether an admin listener may be behind it."""
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def ask(admin: str, path: str, token: str | None, body: object = None, timeout: float = TIMEOUT) -> Any:
    """The JSON that `path` answers: a GET, or a POST where there is a `body`. Raises AdminError."""
    if not is_url(admin):
        raise AdminError(f"--admin wants a URL such as {ADMIN}, not {admin!r}")
    data = None if body is None else json.dumps(body).encode()
    request = Request(admin.rstrip("/") + path, data)
    if data is not None:
        request.add_header("Content-Type", "application/json")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    opener = build_opener(ProxyHandler({}), _NoRedirect)
    try:
        with opener.open(request, timeout=timeout) as answer:
            return json.loads(answer.read(_MOST))
    except HTTPError as error:
        raise AdminError(_words(error), error.code) from None
    except (URLError, HTTPException, OSError) as error:
        why = getattr(error, "reason", error)
        raise AdminError(
            f"no answer from the admin listener at {admin}: {why}. Is the gateway running, and is this its `admin:` "
            "address? Say another with --admin URL"
        ) from None
    except ValueError:
        raise AdminError(f"{admin} answered, but not in JSON: is it a Headway admin listener?") from None


def _words(error: HTTPError) -> str:
    try:
        told = json.loads(error.read(_MOST_WORDS))["error"]
        message = "; ".join([str(told["message"]), *map(str, told.get("problems", ()))])
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        message = str(error.reason)
    if error.code in (401, 403):
        return f"{message} (status {error.code}); give the admin token with --token T"
    return message if 400 <= error.code < 500 else f"the admin listener answered {error.code}: {message}"
