"""Ids, addresses that no model server has, and the registry."""

import pytest

from gateway.core.addresses import is_forbidden
from gateway.discovery import SOURCES
from gateway.discovery.base import Discovery, endpoint_id


@pytest.mark.parametrize(
    ("url", "name"),
    [("http://a:1", "a:1"), ("https://a:443/v1/", "a:443/v1"), ("http://[::1]:80", "[::1]:80")],
)
def test_an_endpoints_id_is_host_port_and_path(url: str, name: str) -> None:
    assert endpoint_id(url) == name


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "::ffff:169.254.169.254",
     "0.0.0.0", "::", "224.0.0.1", "ff02::1"],
)  # fmt: skip
def test_metadata_and_other_unlikely_addresses_are_forbidden(address: str) -> None:
    assert is_forbidden(address)


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "::1", "8.8.8.8", "fd00::1", "2001:db8::1"])
def test_addresses_of_servers_are_not(address: str) -> None:
    assert not is_forbidden(address)


def test_every_source_is_one_and_has_its_name() -> None:
    assert set(SOURCES) == {"endpoints", "file", "dns"}
    assert all(issubclass(source, Discovery) for source in SOURCES.values())
