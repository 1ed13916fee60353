"""Two answers to one request: what counts as the same, and what the medians are of."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.ask import Facts
from gateway.core.types import UNKNOWN
from gateway.mirrors.comparison import KEPT, Seen, Tally, compare
from gateway.records import Forecast, RequestRecord

FINE = Seen(200, "stop", 100.0, 0.2, 0.02, 0.1, 0.02)
figures = st.one_of(st.just(UNKNOWN), st.floats(0.0, 1e6))
seen = st.builds(Seen, st.sampled_from([200, 400, 502]), st.sampled_from(["", "stop", "length"]), figures, figures,
                 figures, figures, figures)  # fmt: skip


def differs(**changes: object) -> tuple[str, ...]:
    return compare("r", 0.0, FINE, FINE._replace(**changes)).differs  # type: ignore[arg-type]


def test_lengths_are_the_same_within_a_quarter_or_a_few_tokens() -> None:
    assert differs(tokens=126.0) == () and differs(tokens=76.0) == ()
    assert differs(tokens=140.0) == differs(tokens=70.0) == ("length",)
    short = FINE._replace(tokens=1.0)
    assert compare("r", 0.0, short, FINE._replace(tokens=9.0)).differs == ()
    assert compare("r", 0.0, short, FINE._replace(tokens=10.0)).differs == ("length",)


def test_what_is_not_known_is_not_different() -> None:
    assert differs(tokens=UNKNOWN, finish="") == ()
    assert differs(finish="length", tokens=1.0) == ("finish", "length")
    assert differs(status=502, finish="", tokens=0.0) == ("status",)


@given(seen, seen)
def test_it_does_not_matter_which_is_which(one: Seen, other: Seen) -> None:
    assert compare("r", 0.0, one, other).differs == compare("r", 0.0, other, one).differs
    assert not compare("r", 0.0, one, one).differs


@given(st.lists(st.tuples(seen, seen), max_size=20))
def test_a_view_is_json_whatever_was_seen(pairs: list[tuple[Seen, Seen]]) -> None:
    tally = Tally()
    for one, other in pairs:
        tally.add(compare("r", 1.0, one, other))
    view = tally.view()
    json.dumps(view, allow_nan=False)
    assert sum(tally.counts.values()) == len(pairs)


def test_medians_are_of_the_last_comparisons_and_leave_out_what_is_not_known() -> None:
    tally = Tally()
    assert set(tally.medians().values()) == {None}
    for ttft in (9.0, *[0.4] * KEPT):
        tally.add(compare("r", 0.0, FINE, FINE._replace(ttft=ttft, tpot=UNKNOWN)))
    medians = tally.medians()
    assert len(tally.last) == KEPT and tally.counts == {"same": KEPT + 1}
    assert medians["ttft_ratio"] == 2.0 and medians["tpot_ratio"] is None
    assert medians["original_ttft_over_predicted"] == 2.0 and medians["copy_ttft_over_predicted"] == 4.0


def test_an_answer_that_began_well_and_broke_is_not_a_good_one() -> None:
    def status(status: int, ended: str) -> int:
        return Seen.of_record(RequestRecord("r", 0.0, status, ended), "").status

    assert [status(200, "complete"), status(200, "error_event"), status(503, "upstream_failed")] == [200, 502, 503]
    record = RequestRecord("r", 0.0, 200, "complete", predicted=Forecast(1.0, 0.5, 2.0, 0.1, 0.05, 0.2))
    assert Seen.of_record(record, "stop")[-2:] == (1.0, 0.1)
    assert math.isnan(Seen.of_facts(Facts(), 502).tokens)
