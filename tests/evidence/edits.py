"""What `tests.evidence.reloads` writes over a running gateway's file: good texts, edited ones, and what each must be.

The idea: an edit that is valid and would rightly hurt (another port, another model's name) proves nothing, so it is
left out; one that is valid and must not hurt, and one that must be refused, are what the run is about. Which is which
is worked out with the gateway's own loader.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from gateway.config.loader import changes_needing_restart, load_bytes
from gateway.config.problems import ConfigError
from gateway.config.types import Config, Mirror, Route, When
from policies.picking import check as check_pick
from tests.evidence.support import Gateway
from tests.support.mutating import Mutator

MODEL = "bench"  # what all requests ask for
WORDS = ("routes", "split", "arm", "weight", "when", "stream", "canary", "steps", "hold", "mirror", "share", "sticky",
         "to", "a", "b", "c", "bench", "name", "shadow", "fallback", "retry", "cost", "log", "level")  # fmt: skip
HEAD = """\
version: 1
listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
drain: {{delay: 0s, timeout: 30s}}
pools:
  a: {{engine: vllm, endpoints: ["http://127.0.0.1:{0}", "http://127.0.0.1:{1}"], pick: least_tokens}}
  b: {{engine: vllm, endpoints: ["http://127.0.0.1:{2}"], pick: round_robin, cost: 2}}
  c:
    engine: vllm
    endpoints:
      - http://127.0.0.1:{3}
    retry: {{tries: 3, budget: 50%}}
log: {{level: warning}}   # requests have a line each, and there are many
"""
MODELS = (
    """\
models:
  bench: {to: a, fallback: [b], fallback_after: 200ms}
  other: {to: c}
""",
    """\
models:
  other: {to: c}
  bench:
    routes:
      - name: streams
        when: {stream: true}
        split:
          - {arm: one, to: a, weight: 3}
          - {arm: two, to: b, weight: 1, fallback: [c]}
        sticky: session
      - to: c
        fallback: [a, b]
        cheapest: true
""",
    """\
models:
  bench:
    slo: {ttft: 2s}
    routes:
      - when: {header: {x-team: [research, {prefix: lab-}]}, time: {from: "22:00", to: "06:00", zone: Europe/Berlin}}
        shadow: true
        to: b
      - split:
          - {arm: stable, to: a, weight: 90}
          - {arm: next, to: b}
        mirror: {to: c, share: 10%}
        canary: {arm: next, steps: [5%, 50%, 100%], hold: 1s, risk: 10%}
  other: {to: c}
""",
    """\
models:
  bench:
    aliases: ["bench-*"]
    routes:
      - {name: long, when: {prompt: {at_least: 2000}}, to: c}
      - name: rest
        split:
          - {arm: left, to: a}
          - {arm: right, to: c, weight: 0.5}
        sticky: {header: x-user, salt: one}
    capture: {file: captured.jsonl, share: 20%, rotate: 1MiB, keep: 1}
  other: {to: b}
decisions: {keep: 1000, file: decisions.jsonl}
classes:
  interactive: {default: true, priority: 10}
  async: {filler: {protect: interactive, slowdown: 10%}}
""",
)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class Edits:
    """Texts to write, and what each must lead to."""

    def __init__(self, running: Gateway, ports: Sequence[int], seed: int):
        head = HEAD.format(*ports, port=running.port, admin=running.admin)
        self.good = [head + models for models in MODELS]
        self.draw = Random(seed)
        self._source = str(running.file)
        self._mutator = Mutator(seed, WORDS)
        self._whole = {text: self.read(text) for text in self.good}

    def read(self, text: str) -> Config | None:
        """The configuration that the text is; None where it is refused."""
        try:
            return load_bytes(encoded(text), self._source, os.environ, check_pick=check_pick).config
        except ConfigError:
            return None

    def next(self) -> tuple[str, Config | None]:
        """A text, and the configuration that it is."""
        while True:
            base = self.draw.choice(self.good)
            text = base if self.draw.random() < 0.2 else self._mutator.edit(base)
            config, whole = self.read(text), self._whole[base]
            if config is None or (whole is not None and self.is_harmless(config, whole)):
                return text, config

    @staticmethod
    def is_harmless(config: Config, whole: Config) -> bool:
        """Whether requests must go on as they did, however its rules differ from those of the `whole` file."""
        if changes_needing_restart(whole, config) or _essence(config) != _essence(whole):
            return False
        last = config.models[MODEL].routes[-1]
        return last.when == When() and not last.shadow


def _essence(config: Config) -> Config:
    """The configuration without what may differ and yet harm nobody: how requests are dealt, what is written down."""
    plain = Route((), mirror=Mirror("", 0.0))
    pools = {name: replace(pool, cost=1.0, scrape=type(pool.scrape)(), eject=type(pool.eject)(), profile=None,
                           retry=type(pool.retry)(), pick=type(pool.pick)())
             for name, pool in config.pools.items()}  # fmt: skip
    models = {name: replace(model, routes=(plain,), aliases=(), patterns=(), capture=None, slo=type(model.slo)())
              for name, model in config.models.items() if name == MODEL and _leads_here(model.routes)}  # fmt: skip
    return replace(config, pools=pools, models=models, classes={}, log=type(config.log)(), digest="",
                   decisions=type(config.decisions)(), drain=type(config.drain)())  # fmt: skip


def _leads_here(routes: Sequence[Route]) -> bool:
    """Whether its servers are asked for the name that they know: another one would be an edit that hurts."""
    return all(arm.as_ is None for route in routes for arm in route.arms)
