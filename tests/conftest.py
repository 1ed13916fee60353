"""What holds for every test: set before any test module is imported."""

import os

from tests.support.redis_server import redis_server, redis_url

__all__ = ["redis_server", "redis_url"]

# locust replaces the standard library's sockets when it is imported; one test that imports it would change all others.
os.environ.setdefault("LOCUST_SKIP_MONKEY_PATCH", "1")
