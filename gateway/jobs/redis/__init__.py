"""Durable work in Redis: one queue for several gateways."""
