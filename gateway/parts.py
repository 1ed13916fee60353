"""What a pool is built from, made from its configuration before anything that runs is changed."""

from __future__ import annotations

import os

from backends import create as create_backend
from gateway.config.endpoints_file import parse_endpoints
from gateway.config.files import changes
from gateway.config.types import Pool
from gateway.core.health import Rule
from gateway.discovery import SOURCES
from gateway.discovery.base import Discovery, Report
from gateway.priors import prior_of
from gateway.tls import may_speak_tls, upstream_tls
from policies.picking import create as create_policy


class Parts:
    """What can fail in building a pool. Raises what is wrong, whatever that is: a policy may be somebody else's."""

    def __init__(self, pool: Pool):
        self.policy = create_policy(pool.pick.policy, pool.pick.options)
        self.rule = Rule(pool.eject.after, pool.eject.base, pool.eject.max, pool.eject.at_most)
        self.tls = upstream_tls(pool.tls) if may_speak_tls(pool) else None
        self.prior = prior_of(pool.profile) if pool.profile is not None else None
        create_backend(pool.engine)


def source_of(pool: Pool, report: Report) -> Discovery:
    """Where a pool's endpoints come from: the one of the three ways that it names."""
    if pool.dns is not None:
        return SOURCES["dns"](pool.name, pool.engine, report, name=pool.dns.name, port=pool.dns.port,
                              every=pool.dns.every)  # fmt: skip
    if pool.file is not None:
        path = pool.file
        return SOURCES["file"](pool.name, pool.engine, report, path=path, contents=changes,
                               parse=lambda data: parse_endpoints(data, path, os.environ))  # fmt: skip
    return SOURCES["endpoints"](pool.name, pool.engine, report, endpoints=pool.endpoints)
