"""The decoder of chunked bodies: the same from any split, strict, and bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.chunked import ChunkedBody
from gateway.wire.head import WireError


def decode(raw: bytes, limit: int = 1 << 20, *, step: int | None = None) -> tuple[bytes, bytes, bool]:
    """Body, what came after it, and whether it ended; fed whole, or `step` bytes at a time."""
    body = ChunkedBody(limit)
    rest = b""
    for at in range(0, len(raw), step or max(1, len(raw))):
        piece = raw[at : at + (step or len(raw))]
        rest += piece if body.done else body.feed(piece)
    return body.data(), rest, body.done


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A well-formed chunked body and its data."""
    parts = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    extension = draw(st.sampled_from([b"", b";a", b";a=b c", b'; x="y"']))
    size = draw(st.sampled_from([b"%x", b"%X", b"%04x"]))
    trailers = draw(st.sampled_from([b"", b"X-T: 1\r\n", b"A: \r\nB:c\r\n"]))
    raw = b"".join(size % len(part) + extension + b"\r\n" + part + b"\r\n" for part in parts)
    return raw + b"0" + extension + b"\r\n" + trailers + b"\r\n", b"".join(parts)


@given(bodies(), st.binary(max_size=20), st.integers(1, 7))
def test_any_split_gives_the_same_body_and_the_same_rest(body: tuple[bytes, bytes], after: bytes, step: int) -> None:
    raw, data = body
    assert decode(raw + after) == (data, after, True)
    assert decode(raw + after, step=step) == (data, after, True)
    assert decode(raw[:-1])[2] is False


@pytest.mark.parametrize(
    "raw",
    [
        b"g\r\n", b"0x1\r\na\r\n", b"+1\r\na\r\n", b"-1\r\n", b" 1\r\na\r\n", b"1 \r\na\r\n", b"\r\n", b"1\na\n0\n\n",
        b"1\ra", b"1\r\nab\r\n", b"1\r\na\n0\r\n\r\n", b"1\r\na\rb", b"1\r\naXX", b"123456789\r\n", b"1;\n\r\na\r\n",
        b"1;a\x00b\r\na\r\n", b"1;a\rb\r\na\r\n",
        b"0\r\nContent-Length: 1\r\n\r\n", b"0\r\nTransfer-Encoding: x\r\n\r\n",
        b"0\r\nHost: x\r\n\r\n", b"0\r\nX : y\r\n\r\n", b"0\r\n folded: y\r\n\r\n", b"0\r\nnone\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * 20 + b"\r\n", b"1;" + b"a" * 300 + b"\r\na\r\n", b"1;" + b"a" * 300,
    ],
)  # fmt: skip
def test_a_malformed_body_is_refused_from_any_split(raw: bytes) -> None:
    for step in (None, 1, 2, 3):
        with pytest.raises(WireError) as caught:
            decode(raw, step=step)
        assert caught.value.status == 400


def test_a_body_over_the_limit_is_413_as_soon_as_its_size_is_said() -> None:
    with pytest.raises(WireError) as caught:
        decode(b"65\r\n", limit=100)
    assert caught.value.status == 413
    assert decode(b"64\r\n" + b"a" * 100 + b"\r\n0\r\n\r\n", limit=100)[2]
    with pytest.raises(WireError) as caught:
        decode(b"32\r\n" + b"a" * 50 + b"\r\n33\r\n", limit=100)
    assert caught.value.status == 413


def test_a_flood_of_tiny_chunks_with_long_extensions_ends_early() -> None:
    with pytest.raises(WireError) as caught:
        decode(b"".join(b"1;%b\r\na\r\n" % (b"e" * 200) for _ in range(1000)))
    assert caught.value.status == 400
    assert decode(b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n") == (b"a" * 50_000, b"", True)
    with pytest.raises(WireError) as caught:
        decode(b"1\r\na\r\n" * 100_000)
    assert caught.value.status == 400


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_are_decoded_or_refused_and_every_split_agrees(data: bytes, step: int) -> None:
    def verdict(step: int | None) -> object:
        try:
            return decode(data, step=step)
        except WireError as error:
            return error.status

    assert verdict(None) == verdict(step)
