"""Durable work in Redis: one queue for several gateways."""

from gateway.jobs.redis.store import RedisStore

__all__ = ["RedisStore"]
