"""A model's pools and names, by its rules."""

from gateway.config.types import Arm, Mirror, Model, Route, model_to


def test_the_pools_that_may_answer_come_in_the_order_of_the_file_each_once() -> None:
    rules = (Route((Arm("", "ghost"),), shadow=True), Route((Arm("a", "p", fallback=("q",)), Arm("b", "r"))),
             Route((Arm("", "p", fallback=("s",)),), mirror=Mirror("copies", 0.1)))  # fmt: skip
    assert Model("m", rules).pools == ("p", "q", "r", "s")
    assert model_to("m", "p", ("q",)).pools == ("p", "q")


def test_the_arms_name_comes_before_the_models_and_that_before_what_was_asked() -> None:
    renaming, plain = Arm("a", "p", as_="theirs"), Arm("b", "p")
    model = model_to("m", "p", as_="ours")
    assert [model.upstream_name("alias", arm) for arm in (renaming, plain, None)] == ["theirs", "ours", "ours"]
    assert model_to("m", "p").upstream_name("alias", plain) == "m"
    assert model_to("*", "p").upstream_name("Any/Thing", plain) == "Any/Thing"
