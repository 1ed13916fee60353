"""Whether one endpoint may get work: one state machine, one table, fed with what was seen of it.

The idea: what a server says of itself is weaker than what it does. A vLLM whose engine has frozen, and one that drains,
answer its health check with 200 all the while; so a passing check never ends an ejection, only a request that succeeded
does. A refused connection, on the other hand, is definite: nobody is there, and that needs no vote.

          FAILURE x `after`, HUNG, LEAVING                      time is over
    HEALTHY <--> SUSPECT ----------------> EJECTED ----------------------------> TRIAL
       ^            |                       |   ^  ^                              | | |
       |            |                       |   |  +------ FAILURE, HUNG, LEAVING-+ | |
       |            |          nobody there |   |                                   | |
       |            |                       v   | PROBE_OK, but it fell repeatedly  | |
       |            +---------------------> DOWN --------------------------------> TRIAL
       |              nobody there            ^   PROBE_OK, or no check for long    | |
       |                                      +------------- REFUSED, checks fail --+ |
       +-------------------------------- SUCCESS, with a growing share (ramp) --------+

    "nobody there" is a refused connection and one more, or a refused one and a failed check, or three failed checks,
    with no success between. Only passive evidence asks `may_eject` (the pool's share, and never the last one).

Time out of service is `base` x falls in a row, at most `max`, as in Envoy's outlier detection (its ejection-time
multiplier); a fall is forgotten for each 2 x `base` in service. The ramp is the slow start of the same source.
A server that went away (DOWN) and comes back is on trial at its first passing check, so a restart costs no waiting;
one that keeps falling has to wait like an ejected one.

Left to others: collecting the evidence (`proxy`, `prober`), the pool's share and who gets a trial request (`fleet`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class Rule:
    """When to eject and for how long. Seconds; `at_most` is a share of the pool, kept by the fleet."""

    after: int = 5
    base: float = 30.0
    max: float = 300.0
    at_most: float = 0.5
    ramp: float = 30.0


class State(Enum):
    """HEALTHY and SUSPECT get work, TRIAL gets one request at a time, EJECTED and DOWN get none."""

    HEALTHY = "healthy"
    SUSPECT = "suspect"
    EJECTED = "ejected"
    TRIAL = "trial"
    DOWN = "down"


class Evidence(Enum):
    """What was seen. The first five come from requests (passive), the last two from the health check."""

    SUCCESS = "success"  # an answer started, or ended, as it should; the engine's own 4xx too
    FAILURE = "failure"  # 5xx, protocol error, broken connection, error event, time-out
    REFUSED = "refused"  # nobody accepted the connection (refused, unreachable, connect time-out)
    HUNG = "hung"  # silent while others work
    LEAVING = "leaving"  # it said that it is shutting down
    PROBE_OK = "probe_ok"
    PROBE_FAILED = "probe_failed"


class _Move(Enum):
    STAY = auto()
    CLEAR = auto()  # works again: nothing is held against it
    COUNT = auto()  # one more failure; ejected after enough of them
    EJECT = auto()  # ejected at once
    AGAIN = auto()  # the trial failed: out again, for longer
    ABSENT = auto()  # one more sign that nobody is there
    ANSWERS = auto()  # somebody is there: those signs are void
    AWAIT = auto()  # still nobody there
    BACK = auto()  # somebody is there again
    RETURN = auto()  # the trial succeeded


_H, _S, _E, _T, _D = State
_OK, _FAIL, _REFUSED, _HUNG, _LEAVING, _PROBE_OK, _PROBE_FAILED = Evidence
_STAY, _CLEAR, _COUNT, _EJECT, _AGAIN, _ABSENT, _ANSWERS, _AWAIT, _BACK, _RETURN = _Move

TABLE: Mapping[State, Mapping[Evidence, _Move]] = {
    _H: {_OK: _STAY, _FAIL: _COUNT, _REFUSED: _ABSENT, _HUNG: _EJECT, _LEAVING: _EJECT,
         _PROBE_OK: _STAY, _PROBE_FAILED: _ABSENT},
    _S: {_OK: _CLEAR, _FAIL: _COUNT, _REFUSED: _ABSENT, _HUNG: _EJECT, _LEAVING: _EJECT,
         _PROBE_OK: _ANSWERS, _PROBE_FAILED: _ABSENT},
    _E: {_OK: _STAY, _FAIL: _STAY, _REFUSED: _ABSENT, _HUNG: _STAY, _LEAVING: _STAY,
         _PROBE_OK: _ANSWERS, _PROBE_FAILED: _ABSENT},
    _T: {_OK: _RETURN, _FAIL: _AGAIN, _REFUSED: _ABSENT, _HUNG: _AGAIN, _LEAVING: _AGAIN,
         _PROBE_OK: _ANSWERS, _PROBE_FAILED: _ABSENT},
    _D: {_OK: _STAY, _FAIL: _STAY, _REFUSED: _AWAIT, _HUNG: _STAY, _LEAVING: _STAY,
         _PROBE_OK: _BACK, _PROBE_FAILED: _AWAIT},
}  # fmt: skip
"""What each evidence does in each state. An ejected endpoint's late successes are of requests sent before."""

# Signs that nobody is there: a refused connection says more than a failed check, which may be a busy server.
ABSENCE = {Evidence.REFUSED: 2, Evidence.PROBE_FAILED: 1}
ABSENT_AT = 3
# Seconds without any word of the health check after which a DOWN endpoint gets a trial all the same.
UNCHECKED = 10.0
# The share of its turn with which an endpoint starts to ramp.
RAMP_FROM = 0.1

_WORDS = {
    Evidence.FAILURE: "the trial request failed",
    Evidence.REFUSED: "connection refused",
    Evidence.HUNG: "silent while others work",
    Evidence.LEAVING: "it is shutting down",
    Evidence.PROBE_FAILED: "health check failed",
}


class Health:
    """One endpoint's state. `since` is when it began, `reason` why, in words for a log reader.

    `ejections` counts the falls in a row; `next_at` is when `tick` may change something (inf: never).
    """

    __slots__ = ("rule", "state", "since", "reason", "ejections", "next_at",
                 "_failures", "_absence", "_fell_at", "_back_at", "_ramp_from")  # fmt: skip

    def __init__(self, rule: Rule, now: float, ramp: bool):
        self.rule = rule
        self.state = State.HEALTHY
        self.since = now
        self.reason = "new"
        self.ejections = 0
        self.next_at = math.inf
        self._failures = 0
        self._absence = 0
        self._fell_at = now
        self._back_at = now
        self._ramp_from = -math.inf
        if ramp:
            self._start_ramp(now)

    def see(self, evidence: Evidence, now: float, may_eject: bool) -> State:
        """Take one piece of evidence in; returns the state after it.

        `may_eject` says whether passive evidence may take one more endpoint of this pool out of service.
        """
        state = self.state
        if evidence is _OK and state is _H:
            return state
        move = TABLE[state][evidence]
        if move is _STAY:
            pass
        elif move is _CLEAR:
            self._clear(now, "works again")
        elif move is _COUNT:
            self._count_failure(now, may_eject)
        elif move is _EJECT:
            self._eject(now, _WORDS[evidence], may_eject)
        elif move is _AGAIN:
            self._eject(now, _WORDS[evidence], True)
        elif move is _ABSENT:
            self._count_absence(evidence, now)
        elif move is _ANSWERS:
            self._answers(now)
        elif move is _AWAIT:
            self.next_at = now + UNCHECKED
        elif move is _BACK:
            self._come_back(now, may_eject)
        else:
            self._clear(now, "the trial request succeeded")
            self._back_at = now
            self._start_ramp(now)
        return self.state

    def tick(self, now: float) -> State:
        """Let time pass: an ejection ends in a trial, a ramp ends. Returns the state."""
        if now < self.next_at:
            return self.state
        self.next_at = math.inf
        if self.state is _E:
            self._become(_T, now, "its time is over")
        elif self.state is _D:
            self._become(_T, now, "no health check for long")
        else:
            self._ramp_from = -math.inf
        return self.state

    def weight(self, now: float) -> float:
        """The share of its turn that it should get: 1, or less while it ramps."""
        if self._ramp_from == -math.inf:
            return 1.0
        done = (now - self._ramp_from) / self.rule.ramp
        return min(1.0, max(0.0, done) * (1.0 - RAMP_FROM) + RAMP_FROM)

    # --- the moves ---------------------------------------------------------------------------------------------

    def _become(self, state: State, now: float, reason: str) -> None:
        if state is not self.state:
            self.state, self.since = state, now
        self.reason = reason

    def _clear(self, now: float, reason: str) -> None:
        self._failures = self._absence = 0
        self._become(_H, now, reason)

    def _start_ramp(self, now: float) -> None:
        if self.rule.ramp > 0.0:
            self._ramp_from = now
            self.next_at = now + self.rule.ramp

    def _count_failure(self, now: float, may_eject: bool) -> None:
        self._failures += 1
        reason = "1 failure" if self._failures == 1 else f"{self._failures} failures in a row"
        if self._failures >= self.rule.after:
            self._eject(now, reason, may_eject)
        else:
            self._become(_S, now, reason)

    def _eject(self, now: float, reason: str, may_eject: bool) -> None:
        if not may_eject:
            self._become(_S, now, f"{reason}; not ejected, too many others are out")
            return
        self._fall(_E, now, reason)
        self.next_at = now + self._time_out(self.ejections)

    def _count_absence(self, evidence: Evidence, now: float) -> None:
        self._absence += ABSENCE[evidence]
        on_trial = self.state is _T and evidence is _REFUSED
        if self._absence >= ABSENT_AT or on_trial:
            if self.state is _E:
                self._failures = self._absence = 0
                self._become(_D, now, _WORDS[evidence])
            else:
                self._fall(_D, now, _WORDS[evidence])
            self.next_at = now + UNCHECKED
        elif self.state is _H:
            self._become(_S, now, _WORDS[evidence])

    def _answers(self, now: float) -> None:
        self._absence = 0
        if self.state is _S and self._failures == 0:
            self._become(_H, now, "answers again")

    def _come_back(self, now: float, may_eject: bool) -> None:
        self._absence = 0
        until = self._fell_at + self._time_out(self.ejections - 1)
        if until > now and may_eject:
            self._become(_E, now, f"answers again, but fell {self.ejections} times")
            self.next_at = until
        else:
            self.next_at = math.inf
            self._become(_T, now, "answers again")

    def _fall(self, state: State, now: float, reason: str) -> None:
        if self.state is not _T:
            served = max(0.0, now - self._back_at)
            self.ejections = max(0, self.ejections - int(served / max(2.0 * self.rule.base, 1e-9)))
        self.ejections += 1
        self._failures = self._absence = 0
        self._fell_at = now
        self._ramp_from = -math.inf
        self._become(state, now, reason)

    def _time_out(self, falls: int) -> float:
        return min(self.rule.base * falls, self.rule.max)
