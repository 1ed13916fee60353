"""What filler may do to the protected class, and where the class is expected."""

import numpy as np
import pytest

from policies.admission.bounds import LEAST_TTFT, Bounds
from policies.admission.strain import Strain
from tests.policies.admission.filled import Pool


def look(pool: Pool) -> Strain:
    predictor = pool.fleet.predictor
    assert predictor is not None
    return Strain(pool.fleet, predictor, pool.filler._ledger, 8, pool.now)


def bounds(pool: Pool) -> Bounds:
    return pool.filler._bounds


def test_nobody_notices_ten_milliseconds() -> None:
    pool = Pool()
    predictor = pool.fleet.predictor
    assert predictor is not None
    assert bounds(pool).iteration(predictor) * 1.5 == pytest.approx(LEAST_TTFT)


def test_a_promised_pace_may_be_used_up_to_a_share_and_an_unpromised_one_be_slowed_by_little() -> None:
    promised, free = Pool(), Pool()
    promised.send(0, filler=False)
    free.send(0, filler=False, slo=False)
    assert bounds(promised).pace(look(promised)).item(0) == pytest.approx(0.8 * 0.025)
    alone = look(free).alone()
    assert bounds(free).pace(look(free)).item(0) == pytest.approx(1.05 * alone.item(0))


def test_where_the_class_alone_is_beyond_its_share_nothing_is_left() -> None:
    pool = Pool()
    for _ in range(180):
        pool.send(0, filler=False)
    assert bounds(pool).pace(look(pool)).tolist()[:2] == [0.0, pytest.approx(0.02)]


def test_a_first_token_behind_it_must_keep_its_promise() -> None:
    pool = Pool()
    predictor = pool.fleet.predictor
    assert predictor is not None
    behind = np.array([0.05, 0.45])
    assert bounds(pool).keeps_first(behind, predictor).tolist() == [True, True]
    pool.send(0, filler=False)
    assert bounds(pool).keeps_first(behind, predictor).tolist() == [True, False]


def test_the_more_come_the_more_endpoints_are_kept_for_them_those_that_filler_slows_the_least() -> None:
    pool = Pool()
    rows = np.arange(8)
    assert not bounds(pool).expected(look(pool), rows, 0.0, 1.0).any()
    pool.fill(1)
    for _ in range(20):
        pool.send(0)
    pool.send(1, filler=False)
    pool.now += 4.0
    some = bounds(pool).expected(look(pool), rows, pool.now, 1.0)
    assert 1 <= some.sum() < 8
    assert not some[0]
    for _ in range(200):
        pool.now += 0.01
        pool.end(pool.send(2, filler=False))
    assert bounds(pool).expected(look(pool), rows, pool.now, 1.0).all()


def test_one_stands_by_once_somebody_has_ever_come() -> None:
    pool = Pool(16)
    pool.end(pool.send(0, filler=False))
    pool.now = 1000.0
    predictor = pool.fleet.predictor
    assert predictor is not None
    seen = Strain(pool.fleet, predictor, pool.filler._ledger, 16, pool.now)
    assert bounds(pool).expected(seen, np.arange(16), pool.now, 1.0).sum() == 1
    assert not bounds(pool).expected(seen, np.arange(16), pool.now, 0.2, standby=False).any()
