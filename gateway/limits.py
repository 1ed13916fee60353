"""Tenants' limits: whether a request may go, what it is charged, and what its client is told.

The idea: tokens are reserved before a request is sent and settled when it has ended (`core.limiter`), so that fifty
requests at once are held to the limit like fifty in a row. What is reserved depends on the key's `reserve`:

* `learnt`: the estimate of the prompt, and what such answers came to (never more than the client's own limit). The
  overshoot is at most what the estimates of the requests in flight are wrong by.
* `max_tokens`: one token for every byte of the body, which is more than any prompt has, and the most the answer may
  have: no overshoot. A request that does not say how long its answer may be is refused (400).

A reservation is capped at what the bucket holds, as long as what is known of the request fits. A request that never can
fit is refused for good. Where the model server does not say what was used, the estimate is charged and counted as such.

Keys of one tenant with the same limits count together, so a second key is no second helping; a reload keeps the counts
of keys that stay, also when their limits change.

Left to others: who the key is (`front`), counting across gateways (`gateway.shared.limits`).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from math import ceil, inf, isfinite
from typing import Literal, Protocol

from gateway.config.types import Config, Key, KeyLimits
from gateway.core.errors import BadRequest, Refused
from gateway.core.limiter import DAY, Account, Shortage, Terms
from gateway.grants import Grant, Reading, Tally, TenantLimit, terms_of
from gateway.limit_fields import rate_fields

_VERSION = 1  # of what is kept over a restart
PATIENCE = 0.1  # seconds a request may wait for its gateway's lease
_LEASE = "lease"  # refused because a lease was used up
_LOST = 2.0  # seconds after which limits may be countable again


class Sharing(Protocol):
    """Counting together with other gateways."""

    @property
    def is_lost(self) -> bool: ...

    @property
    def when_lost(self) -> Literal["local", "refuse"]: ...

    def account(self, name: str, terms: Terms) -> Account: ...

    def move(self, old: str, new: str, terms: Terms) -> None: ...

    def drop(self, name: str) -> None: ...

    def wake(self) -> None: ...

    def renewal(self, name: str) -> asyncio.Future[None]: ...


class Limiter:
    """All tenants' accounts. One per process; `admit` is synchronous and costs a few microseconds."""

    def __init__(self, config: Config, shared: Sharing | None = None, wall: Callable[[], float] = time.time):
        self._shared = shared
        self._wall = wall
        self._free = Grant(wall)
        self._tallies: dict[str, Tally] = {}
        self._of: dict[bytes, Tally] = {}
        self.reconfigure(config, 0.0)

    # --- requests ------------------------------------------------------------------------------------------------

    def admit(self, key: Key, prompt_tokens: float, output_estimate: float, max_tokens: int | None, now: float,
              size: int = 0) -> Grant:  # fmt: skip
        """Let a request through, or raise TenantLimit (BadRequest where it must say how long its answer may be).

        `output_estimate` and `max_tokens` are of all its answers together, both 0 where nothing is generated; `size` is
        the bytes of its body.
        """
        limits = key.limits
        if limits is None:
            return self._free
        tally = self._of.get(key.digest) or self._add(key)
        shared = self._shared
        if shared is not None and shared.is_lost and shared.when_lost == "refuse":
            tally.refused["lost"] += 1
            raise Refused("limits cannot be checked at the moment", reason="tenant_limit", status=503,
                          retry_after=_LOST)  # fmt: skip
        prompt, output = float(ceil(prompt_tokens)), float(ceil(output_estimate))
        tokens = self._needs(tally, prompt, output, max_tokens, size, now)
        account, at = tally.account, self._wall()
        missing = account.lacks(tokens, now, at)
        if missing is not None:
            raise self._refuse(tally, missing, tokens, now, at)
        stake = account.take(tokens, now, at)
        if account.is_urgent and shared is not None:
            shared.wake()
        tally.admitted += 1
        return Grant(self._wall, tally, stake, prompt, min(output, tokens), now)

    async def wait_for_grant(self, key: Key, prompt_tokens: float, output_estimate: float, max_tokens: int | None,
                             now: float, size: int = 0) -> Grant:  # fmt: skip
        """`admit`, but where only this gateway's lease is used up, wait for a round trip and ask again.

        Without shared limits, and while leases last, it never waits.
        """
        began = time.monotonic()
        waited = 0.0
        while True:
            try:
                return self.admit(key, prompt_tokens, output_estimate, max_tokens, now + waited, size)
            except Refused as refusal:
                renewal = refusal.renewal if isinstance(refusal, TenantLimit) else None
                if renewal is None or waited >= PATIENCE:
                    if key.limits is not None and key.limits.shadow:
                        return self._free  # it is counted as refused, and goes
                    raise
                self._of[key.digest].refused[_LEASE] -= 1
                await renewal
            waited = time.monotonic() - began

    def _needs(self, tally: Tally, prompt: float, output: float, max_tokens: int | None, size: int,
               now: float) -> float:  # fmt: skip
        """Tokens to reserve. Raises where the request can never fit, or does not say what is needed."""
        limits, largest = tally.limits, tally.largest
        if largest == inf:
            return prompt + output
        if limits.reserve == "max_tokens":
            if max_tokens is None and not limits.shadow:
                raise BadRequest("this key's limits need `max_tokens` (or `max_completion_tokens`, "
                                 "`max_output_tokens`) in the request", code="max_tokens_needed",
                                 param="max_tokens")  # fmt: skip
            most = output if max_tokens is None else max_tokens  # (nobody is refused in shadow for not saying it)
            known, wanted = prompt + most, max(prompt, float(size)) + most
        else:
            known = prompt
            wanted = prompt + (output if max_tokens is None else min(output, float(max_tokens)))
        if known > largest:
            tally.refused["never"] += 1
            raise TenantLimit(
                f"this request needs {known:.0f} tokens and its limit is {largest:.0f}: it never fits; make the prompt "
                "or `max_tokens` smaller", retry_after=None, fields=rate_fields(tally.account, now, self._wall()),
            )  # fmt: skip
        return min(wanted, largest)

    def _refuse(self, tally: Tally, missing: Shortage, tokens: float, now: float, at: float) -> TenantLimit:
        """The refusal, in words a client can act on."""
        account, wait = tally.account, missing.wait
        tally.refused[_LEASE if missing.short else missing.what] += 1
        fields = rate_fields(account, now, at)
        renewal = None
        if self._shared is not None:
            self._shared.wake()
            renewal = self._shared.renewal(tally.name) if missing.short else None
        if isfinite(wait):
            fields += b"retry-after-ms: %d\r\n" % ceil(wait * 1000.0)  # what OpenAI's clients look at first
        return TenantLimit(
            f"over the limit of {_words(tally.limits, missing.what)}"
            + (f"; this request needs {tokens:.0f} tokens" if missing.what in ("tokens", "day") else ""),
            retry_after=float(ceil(wait)) if isfinite(wait) else None, fields=fields, renewal=renewal,
        )  # fmt: skip

    # --- configuration -------------------------------------------------------------------------------------------

    def reconfigure(self, config: Config, now: float) -> None:
        """The keys of this configuration. What is counted for keys that stay, stays."""
        before, known = self._of, self._tallies
        wanted = {_name(key.tenant, key.limits) for key in config.keys if key.limits is not None}
        self._of, self._tallies = {}, {name: tally for name, tally in known.items() if name in wanted}
        for tally in self._tallies.values():
            tally.keys = 0
        for key in config.keys:
            if key.limits is None:
                continue
            old = before.get(key.digest)
            name = _name(key.tenant, key.limits)
            if name not in self._tallies and old is not None and old.name not in self._tallies and old.name in known:
                del known[old.name]
                self._change(old, key.tenant, key.limits, name, now)
                known[name] = self._tallies[name] = old
            self._add(key).keys += 1
        for name in known.keys() - self._tallies.keys():
            if self._shared is not None:
                self._shared.drop(name)

    def _change(self, tally: Tally, tenant: str, limits: KeyLimits, name: str, now: float) -> None:
        """The same account under other limits."""
        if self._shared is not None:
            self._shared.move(tally.name, name, terms_of(limits))
        else:
            tally.account.retune(terms_of(limits), now)
        tally.tenant, tally.limits, tally.name, tally.largest = tenant, limits, name, terms_of(limits).largest

    def _add(self, key: Key) -> Tally:
        """The account of a key, made if it is not there."""
        assert key.limits is not None
        name = _name(key.tenant, key.limits)
        tally = self._tallies.get(name)
        if tally is None:
            terms = terms_of(key.limits)
            account = Account(terms) if self._shared is None else self._shared.account(name, terms)
            tally = self._tallies[name] = Tally(key.tenant, key.limits, name, account)
        self._of[key.digest] = tally
        return tally

    def spared(self) -> dict[str, int]:
        """How many requests the limits in shadow would have refused, by tenant."""
        found: dict[str, int] = {}
        for tally in self._tallies.values():
            if tally.limits.shadow:
                found[tally.tenant] = found.get(tally.tenant, 0) + sum(tally.refused.values())
        return found

    # --- seeing and keeping --------------------------------------------------------------------------------------

    def readings(self, now: float) -> list[Reading]:
        """Every account as it is now."""
        at = self._wall()
        found = []
        for tally in self._tallies.values():
            account = tally.account
            requests, tokens = account.requests_left(now), account.tokens_left(now, at)
            found.append(Reading(
                tally.tenant, tally.keys, tally.limits, requests and requests[1], tokens and tokens[1],
                account.spent_on(at), account.running, tally.admitted, dict(tally.refused), tally.charged,
                tally.estimated,
            ))  # fmt: skip
        return found

    def to_state(self) -> dict[str, object]:
        """What is spent of this day's budgets, as JSON's values: rates are whole again by the time of a restart."""
        at = self._wall()
        spent = {name: tally.account.spent_on(at) for name, tally in self._tallies.items()}
        return {"version": _VERSION, "day": int(at // DAY), "spent": {name: n for name, n in spent.items() if n}}

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from there, if it is still the same day. Raises ValueError, KeyError or TypeError; nothing changed."""
        if state["version"] != _VERSION:
            raise ValueError("another version")
        spent = state["spent"]
        if not isinstance(spent, Mapping) or any(not 0.0 <= float(n) < inf for n in spent.values()):
            raise TypeError("spent")
        at = self._wall()
        if self._shared is None and state["day"] == int(at // DAY):  # (a ledger of several gateways keeps its own)
            for name, n in spent.items():
                if name in self._tallies:
                    account = self._tallies[name].account
                    account.spent = account.spent_on(at) + float(n)


def _name(tenant: str, limits: KeyLimits) -> str:
    """What an account is called among gateways: the tenant, and which limits of the tenant's."""
    return f"{tenant}:{hashlib.sha256(repr(limits).encode()).hexdigest()[:12]}"


def _words(limits: KeyLimits, what: str) -> str:
    if what == "concurrency":
        return f"{limits.concurrency} requests at once"
    if what == "day":
        return f"{limits.tokens_per_day} tokens a day"
    rate = limits.requests if what == "requests" else limits.tokens
    assert rate is not None
    return f"{rate.amount:g} {what} in {rate.per:g} s"
