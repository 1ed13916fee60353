"""What holds for every test: set before any test module is imported."""

import os

# locust replaces the standard library's sockets when it is imported; one test that imports it would change all others.
os.environ.setdefault("LOCUST_SKIP_MONKEY_PATCH", "1")
