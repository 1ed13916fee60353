"""Durable asynchronous work: files, batches, single jobs, and the stores that keep them."""

from __future__ import annotations

from gateway.jobs.base import Store


def open_store(url: str) -> Store:
    """The store a configuration names: `sqlite:` and a path, or a Redis URL. It is not connected yet.

    Each is imported when it is asked for: nobody pays for the other one's library.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite":
        from gateway.jobs.sqlite import SqliteStore

        return SqliteStore(rest)
    from gateway.jobs.redis import RedisStore

    return RedisStore(url)
