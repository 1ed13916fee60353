"""The canaries of a running gateway: which there are, when they are looked at, what operators say to them.

The idea: a canary is known by its model and rule, and is the same one as long as its arms, steps and margins are. Over
a reload or a restart the same one goes on: at its step, with its share and all that was counted. One whose rule changed
begins anew; one that left the file leaves a record. They are looked at every second, and what is then said takes
effect at once where it lowers a share, and once it is on disk where it raises one (`rollout`).

Commands are answered when they are on disk. Whoever gave one is recorded with it.

Left to others: statistics and states (`policies.routing`), what is an observation (`seen`), pages
(`report`), drawing arms by `share` (`policies.routing`), calling `see`, `missed` and `tick` (`app`, `proxy`).
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from gateway.config.types import Config
from gateway.core.reservation import Reservation
from gateway.core.routes import Route
from gateway.core.types import UNKNOWN, Outcome
from gateway.logs import Events
from gateway.rollouts.report import report_html, report_json
from gateway.rollouts.rollout import Predictors, Rollout, identity_of
from gateway.rollouts.store import CanaryStore
from gateway.rollouts.words import ANY
from policies.routing import CannotDo, Transition

LOOK_EVERY = 1.0  # seconds
PATIENCE = 5.0  # seconds that a command, or a hand-over, waits for the disk
COMMANDS = ("pause", "resume", "promote", "abort", "restart")
REFUSALS_OF_OURS = ("tenant_limit", "deadline")
"""Reasons of a refusal that say nothing of the arm."""
TAKEN_OVER = "another process has taken over from this one, and may have heard this or not; ask it again"
STOPPING = "this process is stopping and changes nothing any more; ask again, for the one that goes on"

Key = tuple[str, str]  # a model and a rule of its


class CanaryError(Exception):
    """A command or a question that cannot be answered. The message is for people; `status` as in HTTP."""

    def __init__(self, message: str, status: int, code: str):
        super().__init__(message)
        self.status = status
        self.code = code


class Canaries:
    """All of one gateway. `open` its folder, then `reconfigure` with each configuration, and `tick` often.

    `predictors` gives a pool's predictor, or None. `now` is monotonic seconds throughout; `wall` is Unix time.
    """

    def __init__(self, events: Events, predictors: Predictors, wall: Callable[[], float] = time.time):
        self._events = events
        self._predictors = predictors
        self._wall = wall
        self._store = CanaryStore(None)
        self._kept: dict[str, Mapping[str, Any]] = {}
        self._rollouts: dict[tuple[str, str], Rollout] = {}
        self._ahead = 0.0  # of the monotonic clock, so that it goes on where the last process' one stood
        self._due = 0.0
        self._is_stopping = False
        self._following: dict[str, Future[Any]] = {}

    def open(self, folder: str | None, now: float, generation: int | None = None) -> None:
        """Read what was kept in the folder of `state:`. Raises OSError where it cannot be written to."""
        self._store = CanaryStore(folder, generation)
        self._kept = self._store.load()
        self._ahead = self._wall() - now
        for state in self._kept.values():
            clock = state.get("clock")
            if isinstance(clock, float):
                self._ahead = max(self._ahead, clock - now)
        self._tell()

    def catch_up(self) -> None:
        """This process serves from now on: take what the one before it decided since `open`. Never raises."""
        store, unix = self._store, self._wall()
        if not store.keeps:
            return
        store.wait_for_idle()
        for rollout in self._rollouts.values():
            with suppress(OSError, ValueError, KeyError, TypeError):  # (nothing is kept, or nobody here wrote it)
                rollout.catch_up(store.read(rollout.name), store.history(rollout.name), unix)
            rollout.keep(store)
        store.wait_for_idle(PATIENCE)  # from here on the process before is refused what it writes, and says so
        for rollout in self._rollouts.values():
            with suppress(ValueError, KeyError, TypeError):
                rollout.take_over(store.history(rollout.name))
            if rollout.is_resumed:
                rollout.note("resumed", unix, "the gateway was started again", store)
            rollout.keep(store)

    def stop_obeying(self) -> None:
        """This process is about to end: what operators say is for the one that goes on."""
        self._is_stopping = True

    # --- what requests ask and tell ------------------------------------------------------------------------------

    def share(self, model: str, rule: str) -> float | None:
        """The share of the rule's requests that its canary gets now, 0 to 1; None: it has none."""
        rollout = self._rollouts.get((model, rule))
        return None if rollout is None else rollout.share

    def see(self, model: str, rule: str, arm: str, reservation: Reservation, outcome: Outcome, now: float,
            finish: str = "", user: int = 0, share: float = UNKNOWN, path: str = "") -> None:  # fmt: skip
        """One try has ended, and its place was given back. Not for requests that were forced, nor for copies.

        `finish`: why the answer ended (`stop`, …), `user`: a hash of who is kept on an arm; 0: nobody. `share`: the
        canary's when the arm was drawn; NaN: not known. `path`: what was asked for.
        """
        rollout = self._rollouts.get((model, rule))
        if rollout is None or rollout.canary.is_over:
            return
        try:
            at = now + self._ahead
            rollout.see(rollout.arms.seen(arm, reservation, outcome, finish, user, share, at, rollout.frozen, path))
        except Exception as error:  # a bug of ours: it costs an observation, not the request
            self._bug(rollout, error)

    def missed(self, model: str, rule: str, arm: str, code: str, now: float, user: int = 0,
               share: float = UNKNOWN) -> None:  # fmt: skip
        """A request got no place at all, and was refused with this code. Not for requests that were forced."""
        rollout = self._rollouts.get((model, rule))
        if rollout is None or rollout.canary.is_over or code in REFUSALS_OF_OURS:
            return
        try:
            rollout.see(rollout.arms.missed(arm, user, share, now + self._ahead))
        except Exception as error:  # as in `see`
            self._bug(rollout, error)

    # --- configurations ------------------------------------------------------------------------------------------

    def reconfigure(self, config: Config, now: float) -> None:
        """The canaries of this configuration from now on. Never raises."""
        unix, before = self._wall(), self._rollouts
        self._rollouts = {}
        wanted = {(model, rule): route for model, rule, route in _routes(config)}
        self._follow_moves(wanted, before)
        for (model, rule), route in wanted.items():
            old = before.pop((model, rule), None)
            fresh = Rollout(model, rule, route, now + self._ahead, unix)
            if old is not None and old.identity == fresh.identity:
                old.route = route
                fresh = old
            else:
                self._begin(fresh, unix, changed=old is not None)
            self._rollouts[model, rule] = fresh
            self._pause_as_the_file_says(fresh, unix)
        for old in before.values():
            old.note("gone", unix, "it is no longer in the file", self._store)
            self._store.forget(old.name)
        for name in self._kept:
            self._store.note_now(name, {"v": 1, "at": unix, "kind": "gone", "told": "it is no longer in the file"})
            self._store.forget(name)
        self._kept = {}

    def _follow_moves(self, wanted: Mapping[Key, Route], before: dict[Key, Rollout]) -> None:
        """A rule without a name is called by its place: one that has moved in the file goes on as the same one.

        Unless several are alike: which is which cannot be told then.
        """
        claims: dict[Key, list[Key]] = {}
        for (model, rule), route in wanted.items():
            same = [old for old, rollout in before.items() if old[0] == model and old[1].startswith("routes[")
                    and rollout.identity == identity_of(model, old[1], route)]  # fmt: skip
            for old in same:
                claims.setdefault(old, []).extend([(model, rule)] * len(same))
        moves = {old: new[0] for old, new in claims.items() if len(new) == 1 and new[0] != old}
        moved = {new: before.pop(old) for old, new in moves.items()}
        names = {rollout.name for rollout in moved.values()}
        for (model, rule), rollout in moved.items():
            rollout.move(rule, identity_of(model, rule, wanted[model, rule]))
            rollout.keep(self._store)
            before[model, rule] = rollout
        for name in names - {rollout.name for rollout in moved.values()}:
            self._store.forget(name)

    def _begin(self, rollout: Rollout, unix: float, changed: bool) -> None:
        """Go on where a process before this one stood, or begin."""
        kept = self._kept.pop(rollout.name, None)
        if kept is not None and kept.get("identity") == rollout.identity:
            try:
                problems = rollout.restore(kept, self._store.history(rollout.name), unix)
            except Exception as error:  # whatever is in the file, the gateway starts
                problems = [f"begins anew: {error!r}"]
                kept = None
            for why in problems:
                self._events.log("warning", "state_ignored", name=rollout.name, why=why)
            if kept is not None:
                self._events.log("info", "canary_resumed", canary=rollout.name, share=rollout.share)
                return
        told = "its rule is another one now" if changed or kept is not None else "it is in the file"
        rollout.note("began", unix, told, self._store)
        rollout.keep(self._store)
        self._events.log("info", "canary_began", canary=rollout.name, why=told)

    def _pause_as_the_file_says(self, rollout: Rollout, unix: float) -> None:
        """A `paused:` that has changed in the file is a command; one that has not is none."""
        paused = rollout.terms.paused
        if paused == rollout.paused_by_file:
            return
        rollout.paused_by_file = paused
        act = rollout.canary.pause if paused else rollout.canary.resume
        try:
            rollout.changed(act(unix, "the file"), self._store)
        except CannotDo:  # it is so already, or over
            rollout.keep(self._store)

    # --- time ----------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Take note of what is on disk; every second, judge. Call it about every 100 ms. Never raises."""
        unix = self._wall()
        for rollout in self._rollouts.values():
            problem = rollout.keep_up(now + self._ahead, self._store)
            if problem:
                self._events.log("warning", "state_not_written", name=rollout.name, why=problem)
        if now < self._due:
            return
        self._due = now + LOOK_EVERY
        for rollout in self._rollouts.values():
            try:
                rollout.freeze(self._predictors, unix)
                for transition in rollout.look(now + self._ahead, unix, self._store):
                    self._say(rollout, transition)
            except Exception as error:  # a bug of ours: the gateway's clock goes on
                self._bug(rollout, error)
            if rollout.yielded:
                self._follow(rollout)
        self._tell()

    def _bug(self, rollout: Rollout, error: Exception) -> None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        self._events.log("error", "canary_bug", canary=rollout.name, error=repr(error),
                         at=f"{where.filename}:{where.lineno}")  # fmt: skip

    def _say(self, rollout: Rollout, transition: Transition) -> None:
        level = "warning" if transition.after == "rolled_back" else "info"
        self._events.log(level, "canary", canary=rollout.name, what=transition.event, step=transition.step + 1,
                         share=transition.share, by=transition.by, why=transition.why)  # fmt: skip

    def _follow(self, rollout: Rollout) -> None:
        """What is left here during a hand-over is routed as the next process says."""
        name = rollout.name
        reading = self._following.pop(name, None)
        if reading is not None and not reading.done():
            self._following[name] = reading
            return
        if reading is not None and reading.exception() is None:
            with suppress(ValueError, KeyError, TypeError):  # (it is asked again in a second)
                rollout.follow(reading.result())
        self._following[name] = self._store.run(lambda: self._store.read(name))

    def _tell(self) -> None:
        problems, self._store.problems = self._store.problems, []
        for why in problems:
            self._events.log("warning", "canary_store", why=why)

    def close(self, timeout: float = 2.0) -> None:
        """Write once more, for at most `timeout` seconds."""
        for rollout in self._rollouts.values():
            if not rollout.yielded:
                rollout.keep(self._store)
        self._store.close(timeout)

    # --- what operators ask and say ------------------------------------------------------------------------------

    def views(self) -> dict[str, object]:
        """The answer of `GET /api/canaries`."""
        unix = self._wall()
        return {"canaries": [rollout.view(unix) for rollout in self._rollouts.values()]}

    def standing(self) -> dict[tuple[str, str], tuple[float, str]]:
        """By model and rule: the share of the canary now, and its phase."""
        return {key: (rollout.share, rollout.canary.phase) for key, rollout in self._rollouts.items()}

    def report(self, name: str) -> dict[str, object]:
        """The answer of `GET /api/canaries/{name}`: where it stands, and its points. Raises CanaryError."""
        rollout, unix = self._named(name), self._wall()
        return report_json(rollout.view(unix), self._points(rollout, unix))

    def page(self, name: str) -> str:
        """The page of `GET /canaries/{name}`. Raises CanaryError."""
        rollout, unix = self._named(name), self._wall()
        return report_html(rollout.view(unix), self._points(rollout, unix))

    def _points(self, rollout: Rollout, unix: float) -> list[Mapping[str, Any]]:
        """What was recorded, and (while it goes on) how it is now."""
        now = [] if rollout.canary.is_over else [{**rollout.point("judgement", unix), "share": rollout.share}]
        return [*rollout.series, *now]

    async def command(self, verb: str, name: str, by: str = "", why: str = "") -> dict[str, object]:
        """The answer of `POST /api/canaries/{name}/{verb}`: what was done, and where it stands. Raises CanaryError."""
        if verb not in COMMANDS:
            raise CanaryError(f"no such command: {verb!r}; there are {', '.join(COMMANDS)}", 404, "not_found")
        if self._is_stopping:
            raise CanaryError(STOPPING, 503, "stopping")
        rollout, unix = self._named(name), self._wall()
        if rollout.yielded:
            raise CanaryError(TAKEN_OVER, 409, "taken_over")
        refusal = None
        try:
            said = self._do(rollout, verb, unix, by[:100] or "an operator", why[:500])
        except CanaryError as error:
            said, refusal = "", error
        kept = rollout.keep(self._store)
        try:
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(kept)), PATIENCE)
        except TimeoutError:
            said += "; not on disk yet"
        except (OSError, ValueError) as error:
            said += f"; not on disk: {error}"
        rollout.keep_up(rollout.clock, self._store)
        if rollout.yielded:  # (what was done here is undone as soon as the other's state is read)
            raise CanaryError(TAKEN_OVER, 409, "taken_over")
        if refusal is not None:
            raise refusal
        return {"said": said, "canary": rollout.view(self._wall())}

    def _do(self, rollout: Rollout, verb: str, unix: float, by: str, why: str) -> str:
        if verb == "restart":
            rollout.begin(rollout.clock, unix)
            rollout.note("restarted", unix, f"by {by}" + (f": {why}" if why else ""), self._store)
            self._events.log("info", "canary", canary=rollout.name, what="restart", by=by, why=why)
            return f"{rollout.name} begins anew"
        act = {"pause": rollout.canary.pause, "resume": rollout.canary.resume, "promote": rollout.canary.promote,
               "abort": rollout.canary.abort}[verb]  # fmt: skip
        try:
            transition = act(unix, by, why)
        except CannotDo as error:
            raise CanaryError(f"{rollout.name}: {error}", 409, "not_possible") from None
        rollout.changed(transition, self._store)
        self._say(rollout, transition)
        return f"{rollout.name} is {transition.after.replace('_', ' ')}"

    def _named(self, name: str) -> Rollout:
        """By its whole name; by its model or its rule, or as the only one, where that is clear."""
        rollouts = list(self._rollouts.values())
        there = ", ".join(rollout.name for rollout in rollouts)
        if not rollouts:
            raise CanaryError("no canary is configured: no route has a `canary:`", 404, "not_found")
        found = [rollout for rollout in rollouts if rollout.name == name] or [
            rollout for rollout in rollouts if name in (rollout.model, rollout.rule, ANY)
        ]
        if not found:
            raise CanaryError(f"no such canary: {name[:200]!r}; there is {there}", 404, "not_found")
        if len(found) > 1:
            which = ", ".join(rollout.name for rollout in found)
            raise CanaryError(f"which one? {which}", 409, "ambiguous")
        return found[0]


def _routes(config: Config) -> Iterator[tuple[str, str, Route]]:
    """Every route that has a canary: its model, its name, and itself."""
    for model in config.models.values():
        for row, route in enumerate(model.routes):
            if route.canary is not None:
                yield model.name, route.name or f"routes[{row}]", route
