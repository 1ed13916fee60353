"""Listening sockets: bound with a clear error, and inherited."""

import os
import socket

import pytest

from gateway.sockets import VARIABLE, Inherited, bind


def test_a_bound_socket_listens_and_a_taken_address_is_named() -> None:
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            pass
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            bind("127.0.0.1", port)
    with pytest.raises(OSError, match=r"no-such-host\.invalid"):
        bind("no-such-host.invalid", 1)


def test_ipv6_is_bound_where_there_is_any() -> None:
    try:
        with bind("::1", 0) as bound:
            assert bound.family == socket.AF_INET6
    except OSError as error:
        assert "::1" in str(error)


def test_nothing_is_inherited_by_a_first_process() -> None:
    inherited = Inherited({})
    assert inherited.sockets == []
    inherited.say_ready()


def test_sockets_and_the_word_that_we_serve_pass_through_the_environment() -> None:
    ready, told = os.pipe()
    with bind("127.0.0.1", 0) as one, bind("127.0.0.1", 0) as two:
        numbers = [os.dup(one.fileno()), os.dup(two.fileno()), told]
        inherited = Inherited({VARIABLE: ",".join(map(str, numbers))})
        sockets = inherited.sockets
        assert [sock.getsockname() for sock in sockets] == [one.getsockname(), two.getsockname()]
        inherited.say_ready()
        assert os.read(ready, 10) == b"1" and os.read(ready, 1) == b""
        os.close(ready)
        for sock in sockets:
            sock.close()
