"""One request head: a strict grammar, judged a second time by llhttp, then the few meanings framing needs.

Two parsers that read the same bytes differently are how requests are smuggled. So the head must match one grammar
as a whole (RFC 9112, without its leniences: no bare LF, no folding, no space before the colon, no control bytes),
llhttp must agree with it, and what goes upstream is written afresh from what was parsed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import httptools

if TYPE_CHECKING:
    from gateway.wire.above import Limits

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_HEAD = re.compile(
    rb"(" + _TOKEN + rb") ([!-~]+) HTTP/1\.([01])\r\n((?:" + _TOKEN + rb":[^\x00-\x08\x0a-\x1f\x7f]*\r\n)*)\r\n"
)
_FIELD = re.compile(rb"([^:]+):[ \t]*([^\r]*)\r\n")
_VERSION = re.compile(rb"[^\r\n ]+ [^\r\n ]+ HTTP/(\d+)\.(\d+)\r\n")
_DIGITS = 15  # of a Content-Length
_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=\-]*(?::[0-9]{0,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"https?://[^/?#]+(?=/)", re.IGNORECASE)

# Fields whose repetition two parsers could resolve differently.
_SINGLE = frozenset(
    (b"content-length", b"transfer-encoding", b"host", b"authorization", b"x-api-key", b"api-key", b"content-type",
     b"content-encoding", b"expect", b"x-request-id")
)  # fmt: skip
_LISTS = frozenset((b"connection", b"x-forwarded-for"))


class WireError(Exception):
    """A request that is refused by its framing or its size: answered with `status`, then the connection closes."""

    def __init__(self, status: int, message: str, code: str = "bad_framing"):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


class _Judge:
    """llhttp's callbacks: none, its verdict is all that is wanted."""


_JUDGE = _Judge()


class RequestHead:
    """What was parsed: `fields` are (lower-case name, value) pairs in order, `named` the same as a dict.

    `found` is the front's: what it made of the head when it screened it.
    """

    __slots__ = ("method", "target", "path", "minor", "fields", "named", "length", "chunked", "keep_alive", "expects",
                 "found")  # fmt: skip

    method: bytes
    target: bytes
    path: bytes
    minor: int
    fields: Iterable[tuple[bytes, bytes]]
    named: dict[bytes, bytes]
    length: int  # of a sized body; 0 where there is none
    chunked: bool
    keep_alive: bool
    expects: bool  # 100-continue
    found: object

    @classmethod
    def made(cls, target: bytes, fields: tuple[tuple[bytes, bytes], ...]) -> RequestHead:
        """The head of a request that came by another way: of a POST with these fields."""
        head = cls()
        head.method, head.target, head.path = b"POST", target, target.partition(b"?")[0]
        head.fields, head.named = fields, dict(fields)
        head.minor, head.length, head.chunked, head.keep_alive, head.expects = 1, 0, False, True, False
        head.found = None
        return head

    @property
    def query(self) -> bytes:
        """The query with its question mark, or nothing."""
        return self.target[len(self.path) :]


def parse_head(raw: bytes, header_count: int, target_limit: int) -> RequestHead:
    """Parse a head that ends in CRLF CRLF. Raises WireError with the status the contract names."""
    match = _HEAD.fullmatch(raw)
    if match is None:
        raise _why_not(raw)
    method, target, minor, block = match.groups()
    if len(target) > target_limit:
        raise WireError(414, f"the request target is longer than {target_limit} bytes", "target_too_long")
    pairs = _FIELD.findall(block)
    if len(pairs) > header_count:
        raise WireError(431, f"more than {header_count} header fields", "headers_too_large")
    if block.find(b" \r\n") >= 0 or block.find(b"\t\r\n") >= 0:  # (`in` on bytes makes an exception and drops it)
        pairs = [(name, value.rstrip(b" \t")) for name, value in pairs]
    head = RequestHead()
    head.found = None
    named = head.named = {name.lower(): value for name, value in pairs}
    if len(named) == len(pairs):
        head.fields = named.items()
    else:
        head.fields = [(name.lower(), value) for name, value in pairs]
        _merge_repeats(head)
    head.method, head.minor = method, int(minor)
    if target[:1] != b"/" or target.find(b"#") >= 0:
        target = _unusual_target(target)
    head.target = target
    question = target.find(b"?")
    head.path = target if question < 0 else target[:question]
    _read_framing(head)
    try:
        httptools.HttpRequestParser(_JUDGE).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # offered upgrades are refused by not taking them
    except httptools.HttpParserError as error:
        raise WireError(400, "the request head is not valid HTTP/1.1") from error
    return head


def check_partial(raw: bytes, end: int, limits: Limits) -> None:
    """What has come of a head that is not whole, or (`end`: where it ends) is too large. Raises WireError.

    What can be no good head any more is refused at once, not when the rest has come.
    """
    line = raw.find(b"\r\n")
    if (line < 0 and len(raw) > limits.target + 64) or line > limits.target + 64:
        raise WireError(414, f"the request line is longer than {limits.target} bytes", "target_too_long")
    if end > limits.headers or len(raw) > limits.headers:
        raise WireError(431, f"the head is larger than {limits.headers} bytes", "headers_too_large")
    if raw.count(b"\n") != raw.count(b"\r\n"):
        raise WireError(400, "a line of the head does not end in CRLF")


def _unusual_target(target: bytes) -> bytes:
    """The path of an absolute-form target; everything else is refused."""
    absolute = _ABSOLUTE.match(target)
    if target[:1] != b"/":
        if absolute is None:
            raise WireError(400, "the request target must be a path", "bad_target")
        target = target[absolute.end() :]
    if b"#" in target:
        raise WireError(400, "a fragment is not allowed in a request target", "bad_target")
    return target


def _read_framing(head: RequestHead) -> None:
    named = head.named
    host = named.get(b"host")
    if host is None:
        if head.minor:
            raise WireError(400, "HTTP/1.1 needs a Host header")
    elif _HOST.fullmatch(host) is None:
        raise WireError(400, "the Host header is not a host and port")
    length, coding = named.get(b"content-length"), named.get(b"transfer-encoding")
    head.chunked, head.length = False, 0
    if coding is not None:
        if length is not None:
            raise WireError(400, "both Content-Length and Transfer-Encoding")
        if not head.minor:
            raise WireError(400, "Transfer-Encoding needs HTTP/1.1")
        if coding.lower() != b"chunked":
            raise WireError(501, "the only transfer coding here is chunked", "transfer_coding")
        head.chunked = True
    elif length is not None:
        if not length.isdigit() or len(length) > _DIGITS:
            raise WireError(400, "Content-Length is not a plain number")
        head.length = int(length)
    connection = named.get(b"connection")
    if connection is None or connection == b"keep-alive":
        head.keep_alive = head.minor == 1 or connection is not None
    else:
        words = {word.strip() for word in connection.lower().split(b",")}
        head.keep_alive = b"close" not in words and (head.minor == 1 or b"keep-alive" in words)
    expect = named.get(b"expect")
    head.expects = expect is not None and head.minor == 1
    if expect is not None and expect.lower() != b"100-continue":
        raise WireError(417, "the only expectation known here is 100-continue", "expectation_failed")


def _merge_repeats(head: RequestHead) -> None:
    """Refuse the fields that may come once only; in `named`, make one list of those that are lists to us."""
    seen: dict[bytes, bytes] = {}
    for name, value in head.fields:
        if name in seen and name in _SINGLE:
            raise WireError(400, f"the header {name.decode('ascii')} is repeated")
        seen[name] = b"%b, %b" % (seen[name], value) if name in seen else value
    for name in _LISTS & seen.keys():
        head.named[name] = seen[name]


def _why_not(raw: bytes) -> WireError:
    """Name the commonest defects; everything else is simply not the grammar."""
    version = _VERSION.match(raw)
    if version and version.groups() not in ((b"1", b"0"), (b"1", b"1")):
        return WireError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here", "http_version")
    if raw.count(b"\n") != raw.count(b"\r\n") or raw.count(b"\r") != raw.count(b"\r\n"):
        return WireError(400, "a line of the head does not end in CRLF")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        return WireError(400, "folded header lines are not allowed")
    if b"\0" in raw:
        return WireError(400, "a NUL byte in the head")
    return WireError(400, "the request head is not valid HTTP/1.1")
