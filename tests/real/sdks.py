"""What the official `openai` and `anthropic` clients make of a server: one outcome per call, comparable between two.

The same calls go to a model server directly and through Headway. At temperature 0 and with the same request id, all
that may differ is the time of creation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import anthropic
import openai

SAY = [{"role": "user", "content": "hello the queue"}]
_MADE_UP = re.compile(r'("?(?:created|created_at|completed_at)"?[:=]\s*)[0-9.]+|(?:resp|msg|rs|item)_[0-9a-f-]{8,}')


def outcomes(base: str, model: str, only: str = "") -> dict[str, str]:
    """Each call's (or one call's) outcome in words: what came, or the class and fields of the error."""
    calls = {**_openai(base, model), **_anthropic(base, model)}
    return {name: _MADE_UP.sub(r"\1…", _outcome(call)) for name, call in calls.items() if only in ("", name)}


def _outcome(call: Callable[[], Any]) -> str:
    try:
        found = call()
    except openai.APIStatusError as error:
        return f"{type(error).__name__} {error.status_code} code={error.code} type={error.type} param={error.param}"
    except anthropic.APIStatusError as error:
        return f"{type(error).__name__} {error.status_code} {error.body}"
    except openai.APIError as error:
        return f"{type(error).__name__} {error.message}"
    if isinstance(found, str | int):
        return str(found)
    return " | ".join(_shown(part) for part in (found if isinstance(found, list) else [found]))


def _shown(part: Any) -> str:
    return str(part.model_dump_json()) if hasattr(part, "model_dump_json") else repr(part)


def _list(stream: Iterable[Any]) -> list[Any]:
    return list(stream)


def _openai(base: str, model: str) -> dict[str, Callable[[], Any]]:
    client: Any = openai.OpenAI(base_url=f"{base}/v1", api_key="unused", max_retries=0,
                                default_headers={"x-request-id": "compared"})  # fmt: skip
    chat, fixed = client.chat.completions, {"temperature": 0, "seed": 1}
    exact = {"extra_body": {"ignore_eos": True}}
    many = "the queue " * 4000
    return {
        "chat": lambda: chat.create(model=model, messages=SAY, max_tokens=6, **fixed, **exact),
        "chat stream": lambda: _list(
            chat.create(model=model, messages=SAY, max_tokens=6, stream=True, **fixed, **exact)),
        "chat stream with usage": lambda: _list(chat.create(
            model=model, messages=SAY, max_tokens=6, stream=True, stream_options={"include_usage": True}, **fixed)),
        "completion": lambda: client.completions.create(model=model, prompt="a b", max_tokens=5, **fixed),
        "completion stream": lambda: _list(
            client.completions.create(model=model, prompt="a b", max_tokens=5, stream=True, **fixed)),
        "responses": lambda: client.responses.create(model=model, input="hello", max_output_tokens=5, temperature=0),
        "responses stream": lambda: [event.type for event in client.responses.create(
            model=model, input="hello", max_output_tokens=5, temperature=0, stream=True)],
        "embeddings (no such thing here)": lambda: client.embeddings.create(model=model, input="a"),
        "unknown model": lambda: chat.create(model="nope", messages=SAY),
        "prompt too long": lambda: client.completions.create(model=model, prompt=many),
        "prompt too long, stream": lambda: _list(client.completions.create(model=model, prompt=many, stream=True)),
        "max_tokens too many": lambda: chat.create(model=model, messages=SAY, max_tokens=100000),
        "no messages": lambda: client.post("/chat/completions", body={"model": model}, cast_to=object),
        "temperature out of range": lambda: chat.create(model=model, messages=SAY, temperature=-3),
        "bad JSON": lambda: client.post("/chat/completions", content=b'{"model": ', cast_to=object,
                                        options={"headers": {"content-type": "application/json"}}),
    }  # fmt: skip


def _anthropic(base: str, model: str) -> dict[str, Callable[[], Any]]:
    client: Any = anthropic.Anthropic(base_url=base, api_key="unused", max_retries=0,
                                      default_headers={"x-request-id": "compared"})  # fmt: skip
    say, fixed = client.messages, {"max_tokens": 6, "extra_body": {"temperature": 0}}
    return {
        "messages": lambda: say.create(model=model, messages=SAY, **fixed),
        "messages stream": lambda: _list(say.create(model=model, messages=SAY, stream=True, **fixed)),
        "messages stream, read by the helper": lambda: _stream_text(say, model),
        "count_tokens": lambda: say.count_tokens(model=model, messages=SAY).input_tokens,
        "messages, unknown model": lambda: say.create(model="nope", messages=SAY, max_tokens=4),
    }


def _stream_text(say: Any, model: str) -> str:
    with say.stream(model=model, messages=SAY, max_tokens=6, extra_body={"temperature": 0}) as stream:
        return "".join(stream.text_stream)


def models(base: str) -> list[str]:
    """What the `openai` client lists."""
    return [model.id for model in openai.OpenAI(base_url=f"{base}/v1", api_key="unused", max_retries=0).models.list()]


def model(base: str, name: str) -> str:
    """What it says of one."""
    return openai.OpenAI(base_url=f"{base}/v1", api_key="unused", max_retries=0).models.retrieve(name).id
