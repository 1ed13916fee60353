"""Mirrors: a share of the requests is sent to another pool as well, and the answers are compared and thrown away.

    offer (it was routed) -- not in the share --> nothing
       |
       v
    waits for its original --- ended first, or refused --> unsent
       | sent (the original is on its way)
       v
    may it go now? --- no --> busy | memory | gone | loaded | no_place
       | yes
       v
    on its way ------- made room, stopped --> displaced | cut_short
       | both have ended
       v
    same | differs_status | differs_finish | differs_length; unmatched, where the original has no whole answer

The idea: nothing of a copy may be felt by anybody. It is filler, so it gives way to whatever else its pool does; it
starts in the round of the loop after its original was sent; it never waits: where there is no place at once it is left
out, and counted with the reason. Its bytes are dropped as they come (the relay's meter counts). It has no promise, no
deadline and no tenant, so it is charged to nobody; it has an id of its own (`<id>-mirror`), and no record.

Left to others: which requests (`sample`), comparing (`comparison`), sending (`proxy`), places (`policies.admission`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any, Protocol

from gateway.ask import Ask, Facts
from gateway.config.types import Config, Mirror
from gateway.core.errors import HeadwayError, UpstreamError
from gateway.core.types import UNKNOWN
from gateway.lane import Lane
from gateway.mirrors.comparison import Seen, Tally, compare
from gateway.mirrors.discard import Discard
from gateway.outlet import Outlet
from gateway.records import RequestRecord
from gateway.sample import MIRRORED, Sample
from gateway.story import Story

TENANT = "(mirror)"
"""Whose requests copies are: no name of a configuration, so it is nobody's share that they take."""
OF_FREE = 0.25  # the share of what is left for bodies that those of copies may take
OUTCOMES = ("same", "differs_status", "differs_finish", "differs_length", "unmatched", "unsent", "busy", "memory",
            "gone", "loaded", "no_place", "displaced", "cut_short")  # fmt: skip
"""The words of the metric `headway_mirror_total`."""

Rename = Callable[[str], tuple[bytes, bytes]]
"""Body and target of a request for a model server that knows the model by this name."""
Count = Callable[[str, str, str], None]
"""Told of a model, a pool and an outcome."""


class Sender(Protocol):
    """Sends requests (the proxy does)."""

    @property
    def lanes(self) -> Mapping[str, Lane]: ...

    def serve_at_once(self, ask: Ask, reply: Outlet, facts: Facts, pool: str) -> Coroutine[Any, Any, None]: ...


class _CopyFacts(Facts):
    """What happens to a copy: nothing is learnt from it of what the model's own answers are like."""

    is_copy = True


class Shadow:
    """One rule's mirror while the gateway runs: its sample, its copies on their way, what came of them."""

    def __init__(self, model: str, rule: str, mirror: Mirror, random: Random):
        self.model = model
        self.rule = rule
        self.mirror = mirror
        self.sample = Sample(mirror.share, MIRRORED, random)
        self.tally = Tally()
        self.running: set[Copy] = set()
        self.is_gone = False

    def stop(self) -> None:
        """The rule has gone: so have its copies."""
        self.is_gone = True
        for copy in tuple(self.running):
            copy.cancel()

    def view(self) -> dict[str, object]:
        """As JSON."""
        mirror = self.mirror
        return {"model": self.model, "rule": self.rule, "pool": mirror.to, "as": mirror.as_, "share": mirror.share,
                "concurrency": mirror.concurrency, "in_flight": len(self.running), **self.tally.view()}  # fmt: skip


class Mirrors:
    """All mirrors of a gateway. `free` tells how many bytes are left for bodies; `count` is the metric."""

    def __init__(self, sender: Sender, count: Count, free: Callable[[], float],
                 on_bug: Callable[[BaseException], None], random: Random):  # fmt: skip
        self.sender = sender
        self.on_bug = on_bug
        self.klass = ""
        self._count = count
        self._free = free
        self._random = random
        self._shadows: dict[tuple[str, str], Shadow] = {}
        self.held = 0  # bytes of the bodies of copies on their way

    def reconfigure(self, config: Config) -> None:
        """Other rules from now on: a mirror that has not changed goes on, one that has ends with its copies."""
        self.klass = _filler_class(config)
        found = {(model.name, route.name or f"routes[{number}]"): route.mirror for model in config.models.values()
                 for number, route in enumerate(model.routes)}  # fmt: skip
        shadows: dict[tuple[str, str], Shadow] = {}
        for key, mirror in found.items():
            if mirror is not None:
                old = self._shadows.get(key)
                kept = old if old is not None and old.mirror == mirror else None
                shadows[key] = kept or Shadow(*key, mirror, self._random)
        for key, shadow in self._shadows.items():
            if shadows.get(key) is not shadow:
                shadow.stop()
        self._shadows = shadows

    def offer(self, ask: Ask, rule: str, rename: Rename) -> Copy | None:
        """A request was routed by this rule. None: it is not copied; else tell the copy how its original goes on."""
        shadow = self._shadows.get((ask.model.name, rule))
        if shadow is None or not shadow.sample.take():
            return None
        return Copy(self, shadow, ask, rename)

    def close(self) -> None:
        """The gateway stops: copies need not end."""
        for shadow in self._shadows.values():
            shadow.stop()

    def view(self) -> list[dict[str, object]]:
        """As JSON, for operators."""
        return [shadow.view() for shadow in self._shadows.values()]

    # --- what copies ask and tell --------------------------------------------------------------------------------

    def why_not(self, shadow: Shadow, size: int) -> str:
        """Why a copy may not go now, in the metric's words; "" where it may."""
        if shadow.is_gone:
            return "gone"
        if len(shadow.running) >= shadow.mirror.concurrency:
            return "busy"
        if self.held + size > OF_FREE * self._free():
            return "memory"
        lane = self.sender.lanes.get(shadow.mirror.to)
        if lane is None:
            return "gone"
        return "loaded" if len(lane.desk) else ""

    def note(self, shadow: Shadow, outcome: str) -> None:
        """What became of a copy that is not compared."""
        shadow.tally.counts[outcome] += 1
        self._count(shadow.model, shadow.mirror.to, outcome)

    def note_compared(self, shadow: Shadow, request_id: str, original: Seen, copy: Seen) -> None:
        compared = compare(request_id, time.time(), original, copy)
        shadow.tally.add(compared)
        self._count(shadow.model, shadow.mirror.to, compared.outcome)


class Copy:
    """One request's copy. Tell it when its original was `sent`, and how it `ended`."""

    __slots__ = ("_asked", "_ended", "_is_sent", "_mirrors", "_original", "_seen", "_shadow", "_size", "_story",
                 "request_id")  # fmt: skip

    def __init__(self, mirrors: Mirrors, shadow: Shadow, ask: Ask, rename: Rename):
        self.request_id = ask.request.id
        self._mirrors = mirrors
        self._shadow = shadow
        self._asked: tuple[Ask, Rename] | None = ask, rename  # until it is on its way
        self._is_sent = False
        self._story: Story | None = None
        self._size = 0
        self._original: Seen | None = None
        self._seen: Seen | None = None
        self._ended = ""  # the outcome, as soon as it is known

    # --- what its original does ----------------------------------------------------------------------------------

    def sent(self) -> None:
        """The original is on its way. Later calls (further tries) do nothing."""
        if not self._is_sent:
            self._is_sent = True
            asyncio.get_running_loop().call_soon(self._start)  # the original's bytes leave first

    def ended(self, record: RequestRecord, finish: str) -> None:
        """The original has ended; `finish` says why, in the engine's word."""
        if not self._is_sent:
            self._asked = None
            self._end("unsent")
        elif record.ended == "client_gone":
            self._end("unmatched")
        else:
            self._original = Seen.of_record(record, finish)
            self._compare()

    # --- the copy itself -----------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._end("cut_short")
        if self._story is not None:
            self._story.cancel()

    def _start(self) -> None:
        asked, self._asked = self._asked, None
        if asked is None or self._ended:  # its client has left already
            return
        mirrors, shadow = self._mirrors, self._shadow
        why_not = mirrors.why_not(shadow, len(asked[0].body))
        if why_not:
            self._end(why_not)
            return
        try:
            ask = _copied(*asked, shadow.mirror, mirrors.klass)
        except Exception as error:  # a bug of ours: the original must not know
            self._end("cut_short")
            mirrors.on_bug(error)
            return
        self._size = len(ask.body)
        mirrors.held += self._size
        shadow.running.add(self)
        self._story = Story(self._run(ask), mirrors.on_bug)
        self._story.step(None)

    async def _run(self, ask: Ask) -> None:
        mirrors, shadow = self._mirrors, self._shadow
        outlet, facts = Discard(), _CopyFacts()
        try:
            await mirrors.sender.serve_at_once(ask, outlet, facts, shadow.mirror.to)
        except HeadwayError as error:
            self._failed(error, facts)
        else:
            self._seen = Seen.of_facts(facts, outlet.status)
            self._compare()
        finally:
            mirrors.held -= self._size
            shadow.running.discard(self)

    def _failed(self, error: HeadwayError, facts: Facts) -> None:
        if not facts.tries:
            self._end("no_place")
        elif isinstance(error, UpstreamError) and error.cause in ("displaced", "stopping"):
            self._end("displaced" if error.cause == "displaced" else "cut_short")
        else:
            self._seen = Seen.of_facts(facts, error.status)
            self._compare()

    # --- what came of it -----------------------------------------------------------------------------------------

    def _end(self, outcome: str) -> None:
        if not self._ended:
            self._ended = outcome
            self._mirrors.note(self._shadow, outcome)

    def _compare(self) -> None:
        """Compare the two as soon as both have ended."""
        if self._original is not None and self._seen is not None and not self._ended:
            self._ended = "compared"
            self._mirrors.note_compared(self._shadow, self.request_id, self._original, self._seen)


def _copied(ask: Ask, rename: Rename, mirror: Mirror, klass: str) -> Ask:
    """The request as it goes to the mirror's pool: its own id, nobody's tenant, no promise."""
    name = mirror.as_ or ask.model.upstream_name(ask.client_model)
    body, target = (ask.body, ask.target) if name == ask.upstream_model else rename(name)
    now, old = time.monotonic(), ask.request
    request = old._replace(id=f"{old.id}-mirror", arrived=now, klass=klass, filler=True, tenant=TENANT, needs=name,
                           ttft_slo=UNKNOWN, tpot_slo=UNKNOWN, deadline=UNKNOWN, may_wait=False)  # fmt: skip
    before, line, after = ask.fields.rpartition(b"x-request-id: %b\r\n" % old.id.encode())
    fields = before + (b"x-request-id: %b\r\n" % request.id.encode() if line else b"") + after
    return dataclasses.replace(ask, request=request, client_model=name, upstream_model=name, target=target, body=body,
                               fields=fields, received=now, grant=None, reply_fields=b"")  # fmt: skip


def _filler_class(config: Config) -> str:
    """The class that fills what others leave, else the one that everybody goes before."""
    classes = config.classes.values()
    return min(classes, key=lambda klass: (klass.filler is None, klass.priority)).name
