"""Listed endpoints come once, whole, with the ids that logs and metrics show."""

from gateway.config.types import EndpointSpec
from gateway.core.types import Endpoint
from gateway.discovery.static import Static


async def test_the_listed_endpoints_come_once() -> None:
    listed = [EndpointSpec("http://10.0.0.1:8000"), EndpointSpec("http://169.254.1.1:80/x", "two", 4, {"gpu": "l4"})]
    sets = [one async for one in Static("p", "vllm", print, endpoints=listed).watch()]
    assert sets == [
        (
            Endpoint("10.0.0.1:8000", "http://10.0.0.1:8000", "p", "vllm"),
            Endpoint("two", "http://169.254.1.1:80/x", "p", "vllm", labels={"gpu": "l4"}, max_concurrency=4),
        )
    ]
