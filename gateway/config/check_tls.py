"""Whether the certificates and keys that the file names can be used: read now, so that a reload cannot fail later."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial

from gateway.config.kinds import Reader
from gateway.config.problems import shown_path
from gateway.config.types import Config


def check_tls(config: Config, reader: Reader) -> None:
    """Report every certificate, key or list of authorities that OpenSSL does not take."""
    wanted: list[tuple[tuple[str, ...], str | None, str | None, str | None, str]] = []
    if config.listen.tls:
        tls = config.listen.tls
        wanted.append((("listen", "tls"), tls.cert, tls.key, tls.client_ca, "client_ca"))
    for pool in config.pools.values():
        if pool.tls:
            wanted.append((("pools", pool.name, "tls"), pool.tls.cert, pool.tls.key, pool.tls.ca, "ca"))
    for at, cert, key, authorities, name in wanted:
        if cert and key and (fault := _fault(partial(_load_pair, cert, key))):
            hint = "PEM files are expected, the key one of the certificate's and without a passphrase"
            reader.error(reader.value_at(*at, "cert"), f"certificate {shown_path(cert)} cannot be used: {fault}", hint)
        if authorities and (fault := _fault(partial(_load_authorities, authorities))):
            told = f"{shown_path(authorities)} cannot be used: {fault}"
            reader.error(reader.value_at(*at, name), told, "a PEM file is expected")


def _load_pair(cert: str, key: str) -> None:
    # With a passphrase given, even a wrong one, OpenSSL does not ask the terminal for it.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "-")


def _load_authorities(file: str) -> None:
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)


def _fault(load: Callable[[], None]) -> str:
    """What is wrong, or an empty string."""
    try:
        load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return ""
