"""A request in the words of model servers that call the model by another name than its client does.

The idea: the name is changed where the path says that it stands, and nothing else is. Where a header or the path alone
(`model_from: {header}`, `{default}`) decides which model it is, the header says the new name, and so does a JSON body
that gives the model the same name as they do; what else such a body says of a model is between client and server.

Left to others: reading the name (`intake`), answers in the client's words (`edit`).
"""

from __future__ import annotations

from gateway.core.errors import BadRequest
from gateway.form import replace_form_model
from gateway.paths import Path, Paths
from gateway.peek import peek, rewrite
from gateway.wire.head import RequestHead


def named_in_head(path: Path, head: RequestHead) -> str | None:
    """The model that a header names, or that the path has; None: the header is not there."""
    if path.source != "header":
        return path.name
    named = head.named.get(_field(path))
    return named.decode("utf-8", "replace") if named else None


def renamed(path: Path, paths: Paths, head: RequestHead, body: bytes, name: str) -> tuple[bytes, bytes]:
    """Body and target of a checked request with the model's name as the model server knows it."""
    if path.source == "body":
        return rewrite(body, {"model": name}), head.target
    if path.source == "path":
        return body, paths.renamed(head.path, name) + head.query
    if path.source == "form":
        return replace_form_model(head.named.get(b"content-type", b""), body, name), head.target
    return _renamed_too(body, named_in_head(path, head), name), head.target


def with_model(path: Path, lines: bytes, name: str) -> bytes:
    """Header lines in which the header that names the model, if it does on this path, names it so."""
    if path.source != "header":
        return lines
    start = _field(path) + b": "
    return b"".join([start + name.encode() + b"\r\n" if line.startswith(start) else line
                     for line in lines.splitlines(keepends=True)])  # fmt: skip


def _field(path: Path) -> bytes:
    return (path.name or "").lower().encode()


def _renamed_too(body: bytes, asked: str | None, name: str) -> bytes:
    if body.lstrip()[:1] != b"{":
        return body
    try:
        seen = peek(body)
    except BadRequest:  # whatever it is, nobody promised that it can be read here
        return body
    return rewrite(body, {"model": name}) if seen.model == asked else body
