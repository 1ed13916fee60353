"""One stack of processes for all end-to-end tests with SDKs."""

from collections.abc import Iterator

import pytest

from tests.e2e import stack as stacks


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stacks.Stack]:
    with stacks.stack(tmp_path_factory.mktemp("stack")) as running:
        yield running
