"""TLS contexts from the configuration: of our listener, and towards model servers."""

from __future__ import annotations

import ssl

from gateway.config.types import Pool, Tls, UpstreamTls


def listener_tls(tls: Tls) -> ssl.SSLContext:
    """The listener's context; with `client_ca`, clients must show a certificate it signed."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # not every build of Python says so by itself
    context.load_cert_chain(tls.cert, tls.key)
    context.set_alpn_protocols(["http/1.1"])
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def may_speak_tls(pool: Pool) -> bool:
    """Whether an endpoint of this pool can be https. A context takes 150 ms to make: not for every reload."""
    return pool.tls is not None or pool.file is not None or any(e.url.startswith("https:") for e in pool.endpoints)


def upstream_tls(tls: UpstreamTls | None) -> ssl.SSLContext:
    """The context for https endpoints: verified against `ca` or the system's, unless `insecure`."""
    context = ssl.create_default_context(cafile=tls.ca if tls is not None else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls is not None:
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
        if tls.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    return context
