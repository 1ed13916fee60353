"""A pool's own file: URLs a line, or YAML, and what is refused of either."""

import pytest

from gateway.config.endpoints_file import parse_endpoints
from gateway.config.problems import ConfigError
from gateway.config.types import EndpointSpec


def parse(text: str) -> tuple[EndpointSpec, ...]:
    return parse_endpoints(text.encode(), "endpoints.yaml", {"H": "h"})


@pytest.mark.parametrize(
    "text",
    ["# two\nhttp://a\n\n  http://b:8000/ # the other\n", "- http://a\n- http://b:8000\n",
     "endpoints:\n  - url: http://a\n  - http://b:8000\n", '["http://a:80", {"url": "http://b:8000"}]', "http://a\r\nhttp://b:8000"],
)  # fmt: skip
def test_lines_and_yaml_and_json_mean_the_same(text: str) -> None:
    assert parse(text) == (EndpointSpec("http://a:80"), EndpointSpec("http://b:8000"))


def test_an_entry_may_say_more_than_its_url() -> None:
    (one,) = parse("- {url: 'http://${H}', id: first, max_concurrency: 2, labels: {gpu: l4}}\n")
    assert one == EndpointSpec("http://h:80", "first", 2, {"gpu": "l4"})


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", "1:1", "empty file"),
        ("[]", "1:1", "`endpoints` is empty"),
        ("endpoints: []\n", "1:12", "`endpoints` is empty"),
        ("http://a\nhttp://a b\n", "2:1", "not an endpoint's URL"),
        ("http://a\nftp://b\n", "1:1", "a list is expected"),
        ("pools: {}\n", "1:1", "unknown key `pools`"),
        ("- http://a\n- http://a:80\n", "1:1", "endpoint repeated: `http://a:80`"),
        ("- &a http://a\n- *a\n", "1:3", "anchor or alias"),
        ("http://a\nhttp://\udcff\n", "2:1", "not an endpoint's URL"),
    ],
)
def test_a_bad_file_is_refused_at_its_line(text: str, place: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoints(text.encode("utf-8", "surrogateescape"), "endpoints.yaml", {})
    assert f"endpoints.yaml:{place}: {message}" in str(caught.value)
