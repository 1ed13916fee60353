"""What a request body asks for, whichever API it was written for: the prompt's bytes, how many tokens, how to answer.

A body is checked as far as vLLM checks it and the simulation needs it; every refusal is an `ApiError`. How many
tokens an answer gets when the client does not insist is drawn elsewhere.
"""

import json
from dataclasses import dataclass
from typing import Any

from backends.sim import errors, text

# Answers to one request; vLLM has a bound too, since CVE-2026-34756 (a billion of them took a server down).
MOST_COPIES = 16_384


@dataclass(frozen=True, slots=True)
class Ask:
    """A checked request. `max_tokens` None: up to what the model's context leaves."""

    model: str
    prompts: tuple[bytes, ...]
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    copies: int = 1
    stream: bool = False
    include_usage: bool = False
    usage_in_every_chunk: bool = False
    priority: int = 0


def parse_json(body: bytes, content_type: str) -> dict[str, Any]:
    """The body as an object. Raises ApiError as vLLM does for another media type, no body, no JSON, no object."""
    if content_type.split(";")[0].strip().lower() != "application/json":
        raise errors.ApiError(400, "Bad Request", errors.MEDIA_TYPE)
    if not body:
        raise errors.invalid("missing", "body", "Field required", "None")
    try:
        parsed = json.loads(body)
    except json.JSONDecodeError as error:
        context = f", 'ctx': {{'error': '{error.msg}'}}"
        where = f"body.{error.pos}"
        raise errors.invalid("json_invalid", where, "JSON decode error", "<dict of 0 items>", context) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise errors.ApiError(400, "Bad Request", "There was an error parsing the body") from error
    if not isinstance(parsed, dict):
        given = f"<{type(parsed).__name__} of {len(parsed)} items>" if isinstance(parsed, list) else repr(parsed)
        wanted = "Input should be a valid dictionary or object to extract fields from"
        raise errors.invalid("model_attributes_type", "body", wanted, given)
    return parsed


def parse_chat(body: dict[str, Any], model: str) -> Ask:
    """`/v1/chat/completions`."""
    messages = _messages(body)
    limit = _integer(body, "max_completion_tokens", least=1)
    return _ask(body, model, (messages_text(messages),), limit or _integer(body, "max_tokens", least=1))


def parse_completion(body: dict[str, Any], model: str) -> Ask:
    """`/v1/completions`; a missing `max_tokens` means 16 here."""
    limit = _integer(body, "max_tokens", least=1)
    return _ask(body, model, prompts(_required(body, "prompt")), 16 if limit is None else limit)


def parse_messages(body: dict[str, Any], model: str) -> Ask:
    """`/v1/messages` and its `count_tokens`."""
    system = content_text(body.get("system"))
    limit = _integer(body, "max_tokens", least=1)
    return _ask({**body, "n": 1}, model, (system + messages_text(_messages(body)),), limit)


def parse_responses(body: dict[str, Any], model: str) -> Ask:
    """`/v1/responses`."""
    given = _required(body, "input")
    before = content_text(body.get("instructions"))
    rest = messages_text(given) if isinstance(given, list) else content_text(given)
    return _ask({**body, "n": 1}, model, (before + rest,), _integer(body, "max_output_tokens", least=1))


def parse_embeddings(body: dict[str, Any], model: str) -> Ask:
    """`/v1/embeddings`: every input is one prefill."""
    return _ask({**body, "n": 1, "stream": False}, model, prompts(_required(body, "input")), 1)


def prompts(value: Any) -> tuple[bytes, ...]:
    """A text, token ids, or a list of either."""
    if isinstance(value, str):
        return (value.encode("utf-8", "surrogatepass"),)
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            try:
                return (text.decode(value),)
            except ValueError as error:
                raise errors.bad_request(str(error), "prompt") from error
        return tuple(prompt for item in value for prompt in prompts(item))
    raise errors.bad_request("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")


def content_text(content: Any) -> bytes:
    """The text of a message's content: a string, or a list of parts of which those with text count."""
    if isinstance(content, str):
        return content.encode("utf-8", "surrogatepass")
    if not isinstance(content, list):
        return b""
    parts = (part.get("text", part.get("content")) if isinstance(part, dict) else part for part in content)
    return b"".join(content_text(part) for part in parts)


def messages_text(messages: list[Any]) -> bytes:
    """The concatenated text of a conversation."""
    return b"".join(content_text(m.get("content")) if isinstance(m, dict) else content_text(m) for m in messages)


def _ask(body: dict[str, Any], model: str, asked: tuple[bytes, ...], limit: int | None) -> Ask:
    name = body.get("model")
    if name is not None and name != model:
        raise errors.unknown_model(name, model)
    temperature = body.get("temperature")
    if isinstance(temperature, int | float) and temperature < 0:
        message = f"temperature must be non-negative, got {float(temperature)}."
        raise errors.bad_request(message, "temperature", float(temperature))
    options = body.get("stream_options")
    options = options if isinstance(options, dict) else {}
    return Ask(
        model=model,
        prompts=asked,
        max_tokens=limit,
        min_tokens=_integer(body, "min_tokens", least=0) or 0,
        ignore_eos=bool(body.get("ignore_eos")),
        copies=_integer(body, "n", least=1, most=MOST_COPIES) or 1,
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        usage_in_every_chunk=bool(options.get("continuous_usage_stats")),
        priority=_integer(body, "priority", least=-(2**31)) or 0,
    )


def _messages(body: dict[str, Any]) -> list[Any]:
    messages = _required(body, "messages")
    if not isinstance(messages, list):
        raise errors.invalid("list_type", "body.messages", "Input should be a valid list", repr(messages)[:50])
    if not messages:
        raise errors.bad_request(
            "Cannot apply chat template to an empty conversation. Provide at least one message.", None
        )
    return messages


def _required(body: dict[str, Any], name: str) -> Any:
    if body.get(name) is None:
        raise errors.invalid("missing", f"body.{name}", "Field required", f"<dict of {len(body)} items>")
    return body[name]


def _integer(body: dict[str, Any], name: str, least: int, most: int | None = None) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int:
        raise errors.invalid("int_type", f"body.{name}", "Input should be a valid integer", repr(value)[:50])
    if value < least:
        raise errors.bad_request(f"{name} must be at least {least}, got {value}.", name, value)
    if most is not None and value > most:
        raise errors.bad_request(f"{name} must be at most {most}, got {value}.", name, value)
    return value
