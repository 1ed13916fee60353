"""Prompts on account: what they cost, what the account earns, and that it never owes much."""

import pytest

from policies.admission.prompts import CREDIT, Prompts, blocked, occupied, rounds
from tests.policies.admission.filled import Pool


def test_erlangs_formula() -> None:
    assert blocked(1.0, 1) == pytest.approx(0.5)
    assert blocked(2.0, 2) == pytest.approx(0.4)
    assert blocked(5.0, 0) == 1.0
    assert blocked(0.0, 3) == 0.0


def test_the_account_earns_its_share_of_arrivals_and_saves_little() -> None:
    account = Prompts(0.05)
    account.earn(100.0, 0.0)
    account.spend(0.05 * 100.0 * CREDIT)
    account.earn(100.0, 0.5)
    assert account.may_spend(2.5)
    assert not account.may_spend(2.6)
    account.earn(100.0, 1000.0)
    assert account.may_spend(0.05 * 100.0 * CREDIT)
    assert not account.may_spend(0.05 * 100.0 * CREDIT + 0.1)


def test_who_spends_what_is_there_must_wait() -> None:
    account = Prompts(0.05)
    account.earn(100.0, 0.0)
    account.spend(12.0)
    account.earn(100.0, 0.3)
    assert not account.may_spend(0.1)
    account.earn(100.0, 0.5)
    assert account.may_spend(0.1)


def test_a_prompt_in_small_chunks_keeps_an_endpoint_longer() -> None:
    predictor = Pool().fleet.predictor
    assert predictor is not None
    whole = occupied(predictor, 0, 2000.0, 0.02)
    predictor.learnt.chunk = 512.0
    assert rounds(predictor, 0, 2000.0) == 4.0
    assert occupied(predictor, 0, 2000.0, 0.02) > whole + 0.04
