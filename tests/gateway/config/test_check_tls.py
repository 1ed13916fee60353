"""Certificates and keys are tried when the file is checked, and never asked about on a terminal."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.loader import load
from gateway.config.problems import ConfigError, Problem

# Made for these tests alone and used nowhere else.
CERT = """\
-----BEGIN CERTIFICATE-----
MIIBhTCCASugAwIBAgIULn1aUrNzwDxv3z9iHoFoBBpYdmYwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMaGVhZHdheSB0ZXN0MCAXDTI2MTEyMDEzNDk0MloYDzIxMjYx
MDI3MTM0OTQyWjAXMRUwEwYDVQQDDAxoZWFkd2F5IHRlc3QwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAAR/rH/5z7hIJpmFf6gZjRnoTn27ey6Q86MxfEmpkkd1foZK
LinH2lPtoFSj+Bx0/74NhlDp+2gcV6JCxMduPD8vo1MwUTAdBgNVHQ4EFgQUZlEm
mQOrn26/Xah2l4ep95xEZBQwHwYDVR0jBBgwFoAUZlEmmQOrn26/Xah2l4ep95xE
ZBQwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiAxFFs3y3ax5uNr
ZVl5oXyYo/MFfuWoVXFR3IVnrgYFJQIhAMwu+AIwRXjt0VB6wRvjG8ZID9hAty8j
pgEiQsw8irGG
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgXV0IFuFGoMSAMS7B
YbmOtfyPlTb32Ox/50PQG08ghOehRANCAAR/rH/5z7hIJpmFf6gZjRnoTn27ey6Q
86MxfEmpkkd1foZKLinH2lPtoFSj+Bx0/74NhlDp+2gcV6JCxMduPD8v
-----END PRIVATE KEY-----
"""
LOCKED_KEY = """\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgxxTwQ9QIZ6QICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEELPaxTxhCqRCWe9BmrzNuywEgZBd
d5NP0Eof/FGt/LDEkqklKrPrejeNvSmfFNkiyH5CzixKK05vdBMscH/zSLZDEWVH
/CQrixqkGjF+Ntb6Y30v1NJJ/ct0itBS6YuSYN39QnUDyIwbHYsbyK2r3wP6oWwg
JEJ7VYbw+nqsmvg8CzZLR/kHy9rtm/fhVtC7DQyxLd0Iu3+ZpdwR2Ggz0M3uXss=
-----END ENCRYPTED PRIVATE KEY-----
"""
OTHER_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgEgMoRdIC2L7Tdp3J
lkUfodCxayq3ys8kCbVEE+1XWH+hRANCAAS8qtxQVh/FLsODx3Cv7qlsJnaJ1aJs
+XkAKwAksThSo7sFDTUReiw6LeaAayUoKbz5jDLeW48/G39zhcDVlxJu
-----END PRIVATE KEY-----
"""


@pytest.fixture
def check(tmp_path: Path, good: str) -> Callable[..., list[Problem]]:
    def check(cert: str = CERT, key: str = KEY, authorities: str = CERT) -> list[Problem]:
        for name, text in (("c.pem", cert), ("k.pem", key), ("ca.pem", authorities)):
            (tmp_path / name).write_text(text)
        tls = "{cert: c.pem, key: k.pem, client_ca: ca.pem}"
        text = good.replace("listen: 127.0.0.1:8080", f"listen: {{address: 127.0.0.1:8080, tls: {tls}}}")
        upstream = "tls: {cert: c.pem, key: k.pem, ca: ca.pem}"
        (tmp_path / "f.yaml").write_text(text.replace("engine: http", f"engine: http\n    {upstream}"))
        try:
            load(tmp_path / "f.yaml", {})
        except ConfigError as error:
            return list(error.problems)
        return []

    return check


def test_a_pair_that_belongs_together_is_taken(check: Callable[..., list[Problem]]) -> None:
    assert check() == []


@pytest.mark.parametrize(
    "bad", [{"key": OTHER_KEY}, {"key": LOCKED_KEY}, {"key": "nonsense"}, {"cert": "nonsense"}, {"cert": "", "key": ""}]
)
def test_a_pair_that_cannot_be_used_is_refused_where_it_is_named(
    check: Callable[..., list[Problem]], bad: dict[str, str]
) -> None:
    found = check(**bad)
    assert [problem.line for problem in found] == [1, 5]
    assert all("certificate" in problem.message and "cannot be used" in problem.message for problem in found)


def test_authorities_that_cannot_be_read_are_refused(check: Callable[..., list[Problem]]) -> None:
    found = check(authorities="nonsense")
    assert [problem.line for problem in found] == [1, 5]
    assert all("ca.pem` cannot be used" in problem.message for problem in found)
