"""What the fleet makes of scrapes, and what it tells its predictor."""

import math

import numpy as np
import pytest

from gateway.core.fleet import OTHERS_MEMORY, Fleet
from gateway.core.reservation import Reservation
from gateway.core.types import Load
from tests.support.fleets import make_endpoint, make_fleet, take

# --- what was scraped ----------------------------------------------------------------------------------------------


def test_a_scrape_that_shows_only_our_own_requests_adds_nothing():
    fleet = make_fleet(2)
    for _ in range(5):
        take(fleet, 0)
    for _ in range(3):
        fleet.observe(0, Load(1.0, waiting=2.0, running=3.0), 5.0)
    assert fleet.others[0] == 0.0
    assert fleet.requests[0] == 5.0


def test_what_was_sent_or_ended_during_a_scrape_is_not_taken_for_others():
    fleet = make_fleet(1)
    held = [take(fleet, 0) for _ in range(4)]
    fleet.observe(0, Load(1.0, waiting=0.0, running=4.0), 0.0)  # sent after the scrape went out, and seen by it
    assert fleet.others[0] == 0.0
    for reservation in held:
        reservation.settle()
    fleet.observe(0, Load(2.0, waiting=0.0, running=4.0), 4.0)  # ended after the scrape was answered
    assert fleet.others[0] == 0.0


def test_the_unknown_endpoint_gets_the_mean_of_the_known_ones():
    fleet = make_fleet(3)
    fleet.observe(0, Load(1.0, waiting=2.0, running=2.0), 0.0)
    fleet.observe(1, Load(1.0, waiting=4.0, running=4.0), 0.0)
    assert fleet.requests[:3].tolist() == [4.0, 8.0, 6.0]
    assert fleet.tokens[2] == pytest.approx(6.0 * 0.5 * fleet.mean_tokens)


def test_half_an_answer_is_unknown_and_not_half_a_load():
    fleet = make_fleet(2)
    fleet.observe(0, Load(1.0, running=9.0), 0.0)
    fleet.observe(1, Load(1.0, waiting=0.0, running=2.0), 0.0)
    assert math.isnan(fleet.others[0])
    assert fleet.requests[0] == 2.0


def test_stale_figures_are_forgotten_and_our_own_stay():
    fleet = make_fleet(2)
    take(fleet, 0)
    fleet.observe(0, Load(1.0, waiting=3.0, running=5.0), 0.0)
    fleet.forget_stale(3.9)
    assert fleet.others[0] == 7.0
    fleet.forget_stale(4.1)
    assert math.isnan(fleet.others[0])
    assert fleet.requests.tolist()[:2] == [1.0, 0.0]


def test_others_are_averaged_over_seconds():
    """A dip that every gateway sees is filled by every one of them: a figure of one moment is followed slowly."""
    fleet = make_fleet(1)
    fleet.observe(0, Load(10.0, waiting=0.0, running=20.0), 0.0)
    assert fleet.others[0] == 20.0  # the first figure is all there is
    fleet.observe(0, Load(11.0, waiting=0.0, running=8.0), 0.0)
    assert fleet.others[0] == pytest.approx(20.0 - 12.0 * 1.0 / (1.0 + OTHERS_MEMORY))
    for second in range(12, 60):
        fleet.observe(0, Load(float(second), waiting=0.0, running=8.0), 0.0)
    assert fleet.others[0] == pytest.approx(8.0, abs=0.01)
    assert fleet.requests[0] == fleet.others[0]


def test_how_often_a_server_is_scraped_hardly_changes_what_is_believed_of_it():
    often, seldom = make_fleet(1), make_fleet(1)
    for fleet, times in ((often, 40), (seldom, 4)):
        fleet.observe(0, Load(0.0, waiting=0.0, running=20.0), 0.0)
        for i in range(1, times + 1):
            fleet.observe(0, Load(i * 8.0 / times, waiting=0.0, running=0.0), 0.0)
    assert often.others[0] == pytest.approx(20.0 * math.exp(-8.0 / OTHERS_MEMORY), rel=0.1)
    assert seldom.others[0] == pytest.approx(often.others[0], rel=0.4)


def test_the_same_scrape_told_twice_and_one_that_comes_late_change_nothing():
    fleet = make_fleet(1)
    fleet.observe(0, Load(10.0, waiting=0.0, running=20.0), 0.0)
    fleet.observe(0, Load(10.0, waiting=0.0, running=5.0), 0.0)
    fleet.observe(0, Load(9.0, waiting=0.0, running=5.0), 0.0)
    assert fleet.others[0] == 20.0


def test_after_a_silence_a_figure_is_taken_as_it_is():
    fleet = make_fleet(1)
    fleet.observe(0, Load(1.0, waiting=0.0, running=20.0), 0.0)
    fleet.forget_stale(9.0)
    fleet.observe(0, Load(10.0, waiting=0.0, running=5.0), 0.0)
    assert fleet.others[0] == 5.0


@pytest.mark.parametrize("nonsense", [math.inf, -math.inf])
def test_a_figure_without_end_is_no_figure(nonsense):
    fleet = make_fleet(2)
    fleet.observe(0, Load(1.0, waiting=4.0, running=0.0), 0.0)
    fleet.observe(1, Load(1.0, waiting=nonsense, running=0.0), 0.0)
    assert fleet.requests[:2].tolist() == [4.0, 4.0]
    fleet.observe(1, Load(2.0, waiting=6.0, running=0.0), 0.0)
    assert fleet.requests[:2].tolist() == [4.0, 6.0]


# --- the predictor -------------------------------------------------------------------------------------------------


class Listener:
    """A predictor that only writes down what it is told, with the fleet's counts at that moment."""

    def __init__(self):
        self.heard = []

    def __getattr__(self, name):
        def hear(*arguments):
            first = arguments[0]
            if isinstance(first, Reservation):
                fleet, row = first.fleet, first.row
                counts = (fleet.ours[row], fleet.decoding[row], fleet.prefill[row])
                self.heard.append((name, row, counts, arguments[1:]))
            else:
                self.heard.append((name, *(a.tolist() if isinstance(a, np.ndarray) else a for a in arguments)))

        return hear


def make_listened(count: int = 2) -> tuple[Fleet, list]:
    fleet = make_fleet(count)
    fleet.predictor = Listener()
    return fleet, fleet.predictor.heard


def test_the_predictor_hears_of_a_request_after_the_counts_have_moved():
    fleet, heard = make_listened()
    outcome = object()
    reservation = take(fleet, 1, prompt=100.0, now=1.0)
    reservation.first_token(2.0)
    reservation.first_token(2.5)
    reservation.progress(16.0, 3.0)
    reservation.settle(4.0, outcome)
    reservation.settle(5.0)
    reservation.first_token(6.0)
    reservation.progress(17.0, 6.0)
    assert [(name, row, counts) for name, row, counts, _ in heard] == [
        ("dispatched", 1, (1.0, 0.0, 100.0)),
        ("started", 1, (1.0, 1.0, 0.0)),
        ("progressed", 1, (1.0, 1.0, 0.0)),
        ("ended", 1, (0.0, 0.0, 0.0)),
    ]
    assert heard[0][3][1] == 1.0 and heard[1][3] == (2.0,) and heard[2][3] == (16.0, 3.0)
    assert heard[3][3] == (4.0, outcome)
    assert reservation.written == 16.0


def test_the_predictor_hears_of_what_was_scraped_and_of_what_is_no_longer_believed():
    fleet, heard = make_listened(2)
    fleet.observe(1, Load(1.0, waiting=3.0, running=5.0, kv_capacity=1e5), 0.0)
    assert heard == [("told", 1, 1e5), ("see_others", [8.0, 8.0])]
    fleet.forget_stale(9.0)
    assert heard[2:] == [("see_others", [0.0, 0.0])]


def test_the_predictor_hears_of_an_endpoint_that_is_gone_once_its_last_request_has_ended():
    fleet, heard = make_listened(2)
    reservation = take(fleet, 1)
    fleet.update([make_endpoint(0)], 1.0)
    assert ("forget", 1) not in heard
    reservation.settle(2.0)
    assert [entry for entry in heard if entry[0] == "forget"] == [("forget", 1)]
