"""Contexts made from the test certificates."""

from __future__ import annotations

import ssl
from pathlib import Path

TLS = Path(__file__).resolve().parents[1] / "data" / "tls"


def path(name: str) -> str:
    """The path of one of the files, `server.pem` for example."""
    return str(TLS / name)


def client_context(certificate: str | None = None) -> ssl.SSLContext:
    """A client that believes the test authority, and shows a certificate if one is named."""
    context = ssl.create_default_context(cafile=path("ca.pem"))
    if certificate is not None:
        context.load_cert_chain(path(f"{certificate}.pem"), path(f"{certificate}.key"))
    return context


def server_context(certificate: str = "server", *, ask_client: bool = False) -> ssl.SSLContext:
    """A server with this certificate; it can insist on a client certificate of the test authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path(f"{certificate}.pem"), path(f"{certificate}.key"))
    if ask_client:
        context.load_verify_locations(path("ca.pem"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context
