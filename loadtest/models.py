"""Which model to ask for when nobody said: the first one the server lists.

A blocking request with the standard library, made once before a run starts.
"""

from __future__ import annotations

import json
import urllib.request

MOST = 1 << 20  # bytes of a model list


def first_model(url: str, headers: dict[str, str], timeout: float = 10.0) -> str:
    """The first id of `GET {url}/v1/models`. Raises ValueError that says what to do instead."""
    request = urllib.request.Request(url.rstrip("/") + "/v1/models", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            name = json.loads(answer.read(MOST))["data"][0]["id"]
    except OSError as error:
        raise ValueError(f"{request.full_url} does not answer ({error}); if it need not, say --model") from error
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{request.full_url} names no model ({error}); say which with --model") from error
    if not isinstance(name, str):
        raise ValueError(f"{request.full_url} names no model; say which with --model")
    return name
