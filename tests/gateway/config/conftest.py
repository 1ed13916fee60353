"""What the tests of the configuration share: a good file, and reading text without a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from gateway.config.loader import Loaded, load_bytes
from gateway.config.problems import ConfigError, Problem

GOOD = """\
listen: 127.0.0.1:8080
pools:
  p:
    engine: http
    endpoints:
      - http://127.0.0.1:9900
models:
  corpus-model: {to: p}
"""


@pytest.fixture
def good() -> str:
    return GOOD


@pytest.fixture
def read() -> Callable[..., Loaded]:
    def read(text: str | bytes, env: Mapping[str, str] = {}, **more: object) -> Loaded:
        data = text.encode() if isinstance(text, str) else text
        return load_bytes(data, "headway.yaml", env, **more)  # type: ignore[arg-type]

    return read


@pytest.fixture
def faults(read: Callable[..., Loaded]) -> Callable[..., tuple[Problem, ...]]:
    """The problems of a text that must be refused."""

    def faults(text: str | bytes, env: Mapping[str, str] = {}, **more: object) -> tuple[Problem, ...]:
        with pytest.raises(ConfigError) as caught:
            read(text, env, **more)
        return caught.value.problems

    return faults
