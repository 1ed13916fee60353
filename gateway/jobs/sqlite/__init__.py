"""Durable work in one SQLite file: the default store, with nothing to install."""

from gateway.jobs.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
