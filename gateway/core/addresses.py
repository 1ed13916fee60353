"""Which addresses can be no model server's: a name that leads to one must not make the gateway fetch from there.

Link-local addresses are where clouds keep machine credentials. Only a literal address in the configuration may name
one; a resolved one never does.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

LINK_LOCAL = tuple(ip_network(text) for text in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128"))


def is_forbidden(address: str) -> bool:
    """Whether a *resolved* address is none that a model server can have: link-local, multicast, unspecified."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    inside = any(ip in network for network in LINK_LOCAL if network.version == ip.version)
    return inside or ip.is_multicast or ip.is_unspecified
