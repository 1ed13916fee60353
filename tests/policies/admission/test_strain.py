"""What filler adds to iterations and paces."""

import pytest

from policies.admission.ledger import Ledger
from policies.admission.strain import Strain
from tests.policies.admission.filled import Pool


def look(pool: Pool) -> Strain:
    predictor = pool.fleet.predictor
    assert predictor is not None
    return Strain(pool.fleet, predictor, pool.filler._ledger, 1, pool.now)


def test_an_idle_engine_takes_its_base() -> None:
    assert look(Pool(1)).iteration.item(0) == pytest.approx(0.007)


def test_the_pace_without_filler_is_that_before_it_came() -> None:
    pool = Pool(1)
    for _ in range(20):
        pool.send(0, filler=False)
    before = look(pool)
    for _ in range(20):
        pool.send(0)
    after = look(pool)
    assert after.alone().item(0) == pytest.approx(before.pace().item(0), rel=0.02)
    assert after.pace().item(0) > 1.2 * after.alone().item(0)


def test_one_more_lengthens_the_pace_by_its_sequence_its_context_and_its_prompt() -> None:
    seen = look(Pool(1))
    assert seen.pace(1.0, 2000.0).item(0) == pytest.approx(0.007 + 6.4e-6 + 2000 * 4.3e-8)
    assert seen.pace(0.0, 0.0, 2.0).item(0) == pytest.approx(0.014)


def test_without_filler_there_is_no_part_of_it() -> None:
    pool = Pool(1)
    pool.send(0, filler=False)
    predictor = pool.fleet.predictor
    assert predictor is not None
    seen = Strain(pool.fleet, predictor, Ledger(), 1, 0.0)
    assert seen.filler.item(0) == seen.rho_filler.item(0) == 0.0
