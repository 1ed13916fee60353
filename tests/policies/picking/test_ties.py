"""Ties: the fewest requests among the lowest."""

import random

import numpy as np

from policies.picking.ties import fewest_of_lowest

DICE = random.Random(1)


def test_the_fewest_requests_among_the_lowest_values():
    values, requests = np.array([1.0, 1.0, 2.0, 1.0]), np.array([3.0, 1.0, 0.0, 2.0])
    assert fewest_of_lowest(values, requests, DICE) == 1


def test_equal_ones_are_told_apart_by_chance():
    values, requests = np.array([1.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0])
    assert {fewest_of_lowest(values, requests, DICE) for _ in range(50)} == {0, 1}


def test_an_unknown_value_is_the_lowest_only_when_all_are():
    assert fewest_of_lowest(np.array([np.nan, 5.0]), np.zeros(2), DICE) == 1
    assert {fewest_of_lowest(np.full(2, np.nan), np.zeros(2), DICE) for _ in range(50)} == {0, 1}
