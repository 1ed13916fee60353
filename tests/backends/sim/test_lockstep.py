"""Decodes in lockstep: what is read off the clock is what counting would give."""

from backends.sim.generation import Generation, SimRequest
from backends.sim.lockstep import Lockstep


def joined(decodes: Lockstep, name: str, prompt: int, output: int) -> Generation:
    """A generation whose prompt is done and whose first token came out in the iteration that just ended."""
    g = Generation(SimRequest(name, prompt, output), 1, 0.0)
    g.computed = prompt
    g.emit()
    decodes.join(g)
    return g


def test_a_decode_has_one_token_more_with_every_iteration_and_keeps_its_count_when_it_leaves() -> None:
    decodes = Lockstep(16)
    decodes.iteration = 7
    g = joined(decodes, "a", 20, 50)
    assert (g.generated, g.position, g.goal, g.decoding) == (1, 20, 21, True)
    decodes.iteration += 3
    assert (g.generated, g.position, g.goal) == (4, 23, 24)
    decodes.leave(g)
    decodes.iteration += 3
    assert (g.generated, g.position, g.goal, g.decoding) == (4, 23, 24, False)


def test_the_context_is_that_of_all_who_are_in_it() -> None:
    decodes = Lockstep(16)
    first = joined(decodes, "a", 20, 50)
    decodes.iteration += 2
    joined(decodes, "b", 100, 50)
    decodes.iteration += 1
    assert (decodes.count, decodes.context) == (2, 23 + 101)
    decodes.leave(first)
    assert (decodes.count, decodes.context) == (1, 101)


def test_ends_full_blocks_and_sixteens_are_found_in_the_iteration_they_fall_in() -> None:
    decodes = Lockstep(5)
    g = joined(decodes, "a", 13, 40)
    ends, full, paced = [], [], []
    for now in range(1, 40):
        decodes.iteration = now
        ends += [g.generated for g in decodes.ending()]
        full += [g.position for g in decodes.full()]
        paced += [g.generated for g in decodes.paced()]
    assert ends == [40]
    assert full == [15, 20, 25, 30, 35, 40, 45, 50]
    assert paced == [17, 33]
    decodes.leave(g)
    assert decodes.count == decodes.context == 0


def test_who_left_is_found_no_more_and_the_others_stay_in_the_order_they_came() -> None:
    decodes = Lockstep(4)
    three = [joined(decodes, name, 8, 17) for name in "abc"]
    decodes.iteration += 8
    full = decodes.full()
    assert full == three
    decodes.leave(three[1])
    assert full == [three[0], three[2]]
    decodes.iteration += 8
    assert decodes.ending() == decodes.paced() == [three[0], three[2]]
