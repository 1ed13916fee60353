"""Reading one value: text to number, duration, size, share, rate, address, URL; and back.

The idea: YAML's own guesses are never used (YAML 1.1 takes `no` for false, `1:30` for 90 and `010` for 8). The key
says what is expected, these functions read exactly that, and anything else is a `Fault` that shows the right spelling.
`parse_x(format_x(value)) == value` for every value in range.

Left to others: where the text stands in the file (`tree`), what the key means (`spec`).
"""

from __future__ import annotations

import ipaddress
import re
from decimal import Decimal
from urllib.parse import urlsplit

from gateway.config.problems import Fault, shown

SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
LONGEST = 10 * 366 * 86400.0
"""Seconds: longer durations are typing errors, and some timers of the system cannot hold them."""
LARGEST = 1 << 53
"""Above this a float no longer holds every integer, and no count or size here is so large."""

NUMBER = r"(?:0|[1-9][0-9]{0,17})"
DURATION = rf"{NUMBER}(?:\.[0-9]{{1,18}})?(?:ms|s|m|h|d)"
SIZE = rf"{NUMBER}(?:\.[0-9]{{1,18}})?(?:B|KiB|MiB|GiB|TiB)"
SHARE = rf"{NUMBER}(?:\.[0-9]{{1,18}})?%"
RATE = r"[1-9][0-9]{0,14}/[smhd]"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST_NAME = rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*\.?"
NOTHING_ALLOWED = "a limit of 0 lets nothing through"
LEAVE_OUT = "leave it out for no limit; to shut a client out, take its key out of the file"
_SPLIT = re.compile(r"([0-9.]+)([A-Za-z%]+)")


def parse_int(text: str, least: int = 0, most: int = LARGEST) -> int:
    """A plain decimal integer between `least` and `most`. Signs, leading zeros and other bases are refused."""
    if re.fullmatch(r"0[0-9]+", text):
        raise Fault(f"{shown(text)} is not a number", "write it without leading zeros, or in quotes if it is text")
    if not re.fullmatch(r"-?[0-9]+", text):
        raise Fault(f"{shown(text)} is not a number", "a plain integer is expected, such as 128")
    # CPython refuses to convert thousands of digits; the length alone settles those.
    if len(text) > 18 or not least <= int(text) <= most:
        raise Fault(f"number out of range: {shown(text)}", f"from {least} to {most}")
    return int(text)


def parse_decimal(text: str) -> float:
    """A plain decimal fraction such as `0.25` or `-1.5`; no exponent."""
    if not re.fullmatch(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?", text):
        raise Fault(f"{shown(text)} is not a number", "a plain decimal is expected, such as 0.25")
    return float(text)


def parse_weight(text: str) -> float:
    """A plain decimal of at least 0, at most a million."""
    if re.fullmatch(SHARE, text):
        raise Fault(f"not a weight: {shown(text)}", f"weights are relative, without a sign: {text[:-1]}")
    weight = parse_decimal(text)
    if not 0 <= weight <= 1e6:
        raise Fault(f"number out of range: {shown(text)}", "from 0 to 1000000")
    return weight


def parse_cost(text: str) -> float:
    """A plain decimal above 0, at most a million."""
    cost = parse_decimal(text)
    if not 0 < cost <= 1e6:
        raise Fault(f"number out of range: {shown(text)}", "above 0, relative to the other pools: 1 or 2.5")
    return cost


def parse_bool(text: str) -> bool:
    """`true` or `false`, nothing else."""
    if text in ("true", "false"):
        return text == "true"
    raise Fault(f"{shown(text)} is neither `true` nor `false`", "write true or false")


def parse_duration(text: str, zero: bool = False) -> float:
    """Seconds of a text such as `250ms`, `2s`, `1.5m`, `24h` or `30d`. Zero only where the key allows it."""
    if not re.fullmatch(DURATION, text):
        hint = f"with a unit: {text}s" if re.fullmatch(NUMBER, text) else "write 250ms, 2s, 5m or 24h"
        raise Fault(f"not a duration: {shown(text)}", hint)
    number, unit = _parts(text)
    seconds = float(number * SECONDS[unit])
    if seconds > LONGEST or (seconds == 0 and not zero):
        raise Fault(f"duration out of range: {shown(text)}", f"from {'0s' if zero else '1ms'} to 10 years")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest exact spelling in the largest unit that makes a whole number, else in seconds."""
    exact = Decimal(repr(seconds))
    for unit in ("h", "m", "s", "ms"):
        count = exact / SECONDS[unit]
        if exact and count == count.to_integral_value() and float(count * SECONDS[unit]) == seconds:
            return f"{int(count)}{unit}"
    return f"{exact.normalize():f}s"


def parse_size(text: str, least: int = 1) -> int:
    """Bytes of a text such as `512B`, `64KiB`, `8MiB` or `1.5GiB`."""
    if not re.fullmatch(SIZE, text):
        raise Fault(f"not a size: {shown(text)}", "write 64KiB, 8MiB or 1GiB")
    number, unit = _parts(text)
    size = number * BYTES[unit]
    if size != size.to_integral_value():
        raise Fault(f"not a size: {shown(text)}", "it is not a whole number of bytes")
    if not least <= size <= LARGEST:
        raise Fault(f"size out of range: {shown(text)}", f"at least {format_size(least)}")
    return int(size)


def format_size(size: int) -> str:
    """The size in the largest unit that makes a whole number."""
    for unit, count in reversed(BYTES.items()):
        if size and size % count == 0:
            return f"{size // count}{unit}"
    return f"{size}B"


def parse_share(text: str) -> float:
    """0 to 1 of a text such as `5%` or `0.5%`."""
    if not re.fullmatch(SHARE, text):
        raise Fault(f"not a share: {shown(text)}", "write a percentage such as 5% or 0.5%")
    number, _ = _parts(text)
    if number > 100:
        raise Fault(f"share out of range: {shown(text)}", "from 0% to 100%")
    return float(number / 100)


def format_share(share: float) -> str:
    """The share as a percentage."""
    return f"{(Decimal(repr(share)) * 100).normalize():f}%"


def parse_rate(text: str) -> tuple[float, float]:
    """Amount and seconds of a text such as `100/s` or `200000/m`. A rate of nothing is refused."""
    found = re.fullmatch(r"(0|[1-9][0-9]{0,14})/([smhd])", text)
    if found is None:
        hint = "write 100/s, 6000/m, 1000/h or 5000/d"
        if re.fullmatch(NUMBER, text):
            hint = f"in what time? {text}/s, {text}/m, {text}/h or {text}/d"
        elif re.fullmatch(rf"{NUMBER}\.[0-9]+/[smh]", text):
            hint = "a whole number in a longer time, such as 30/m for one every 2 s"
        raise Fault(f"not a rate: {shown(text)}", hint)
    if found[1] == "0":
        raise Fault(NOTHING_ALLOWED, LEAVE_OUT)
    return float(found[1]), float(SECONDS[found[2]])


def format_rate(amount: float, per: float) -> str:
    """The rate as it is written."""
    unit = next(unit for unit, seconds in SECONDS.items() if seconds == per)
    return f"{amount:.0f}/{unit}"


def parse_quota(text: str) -> int:
    """A whole number of at least 1."""
    if text == "0":
        raise Fault(NOTHING_ALLOWED, LEAVE_OUT)
    return parse_int(text, 1)


def without_password(url: str) -> str:
    """The URL as a message may show it."""
    return re.sub(r"//.*@", "//…@", url)


def parse_redis_url(text: str) -> str:
    """`redis://host:6379/0` or `rediss://…`, with a user and password if need be. No message shows the password."""
    hint = "write it as redis://host:6379/0, or rediss://… for TLS"
    told = without_password(text)
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise Fault(f"not a Redis URL: {shown(told)}", hint) from None
    if url.scheme not in ("redis", "rediss") or not re.fullmatch(r"(?:/[0-9]{1,4})?", url.path) or port == 0:
        raise Fault(f"not a Redis URL: {shown(told)}", hint)
    if "?" in text or "#" in text or not re.fullmatch(r"[!-~]+", text):
        raise Fault(f"not a Redis URL: {shown(told)}", "no query, fragment or space in it")
    place = url.netloc.rpartition("@")[2]
    if not place:
        raise Fault(f"not a Redis URL: {shown(told)}", hint)
    parse_host(place.rpartition(":")[0] if port is not None else place.rstrip(":"), told, hint)
    return text


def parse_callback(text: str) -> str:
    """A host that may be called, or `*.` and a name for all hosts below it; in lower case."""
    if "/" in text or re.fullmatch(r".*:[0-9]+", text):
        raise Fault(f"not a host name: {shown(text)}", "the name alone, without scheme, port or path")
    if not re.fullmatch(rf"(?:\*\.(?=.*\.))?{HOST_NAME}", text):
        hint = "write hooks.example.com, or *.example.com for all hosts below it"
        raise Fault(f"{'would let any host be called' if text in ('*', '*.*') else 'not a host name'}: {shown(text)}",
                    hint)  # fmt: skip
    return text.lower().rstrip(".")


def _parts(text: str) -> tuple[Decimal, str]:
    found = _SPLIT.fullmatch(text)
    assert found is not None, text  # the caller's pattern is narrower
    return Decimal(found[1]), found[2]


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8080`, `localhost:8080` or `[::1]:8080`; the host without brackets."""
    hint = "write host:port, such as 127.0.0.1:8080 or [::1]:8080"
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise Fault(f"not an address: {shown(text)}", hint)
    return parse_host(host, text, hint), parse_int(port, 0, 65535)


def parse_host(host: str, whole: str, hint: str) -> str:
    """An address or a name, as it stands before a port: IPv6 in brackets. Returned in lower case, unbracketed."""
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise Fault(f"not an address: {shown(whole)}", hint) from None
    # A name of digits and dots only is a mistyped IPv4 address: resolvers read those in surprising ways.
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise Fault(f"not an address: {shown(whole)}", hint) from None
    if not re.fullmatch(HOST_NAME, host):
        raise Fault(f"not an address: {shown(whole)}", hint)
    return host.lower()


def parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """`10.0.0.0/8`, `fd00::/8`, or one address."""
    try:
        return ipaddress.ip_network(text, strict=True)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Fault(f"not a network: {shown(text)}", "write it as 10.0.0.0/8 or fd00::/8") from None
    raise Fault(f"not a network: {shown(text)} has host bits set", f"did you mean `{meant}`?")


def parse_endpoint_url(text: str) -> str:
    """An endpoint's URL, normalised: `scheme://host:port` and a path prefix without a last slash."""
    hint = "write it as http://10.0.0.1:8000"
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise Fault(f"not a URL: {shown(text)}", hint) from None
    if url.scheme not in ("http", "https"):
        raise Fault(f"not a URL with http:// or https://: {shown(text)}", hint)
    if "@" in url.netloc:
        raise Fault("a URL with a user or password in it", "put the key under api_key")
    if "?" in text or "#" in text or not re.fullmatch(r"[!-~]+", text) or "\\" in text:
        raise Fault(f"not an endpoint's URL: {shown(text)}", "no query, fragment, space or backslash in it")
    if any(part in (".", "..", "") for part in url.path.rstrip("/").split("/")[1:]) or port == 0:
        raise Fault(f"not an endpoint's URL: {shown(text)}", hint)
    name = url.netloc.rpartition(":")[0] if port is not None else url.netloc.rstrip(":")
    host = parse_host(name, text, hint)
    shown_host = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{shown_host}:{port or (443 if url.scheme == 'https' else 80)}{url.path.rstrip('/')}"
