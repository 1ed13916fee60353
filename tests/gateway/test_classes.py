"""Whose class wins: the request's word, the key's, the model's, the default; and what is refused."""

import pytest

from gateway.classes import asked_class, class_of
from gateway.config.types import Config, Key, Model, TrafficClass, model_to
from gateway.core.errors import BadRequest

CONFIG = Config(
    {}, {}, classes={name: TrafficClass(name, default=name == "chat") for name in ("bulk", "chat", "agents")}
)
ANYONE = Key(b"", "t")
BULK_ONLY = Key(b"", "t", None, frozenset({"bulk"}), "bulk")
BULK_OR_CHAT = Key(b"", "t", None, frozenset({"bulk", "chat"}))
PLAIN, AGENTS = model_to("m", "p"), model_to("m", "p", klass="agents")


@pytest.mark.parametrize(
    ("key", "model", "asked", "granted"),
    [
        (ANYONE, PLAIN, None, "chat"),
        (ANYONE, AGENTS, None, "agents"),
        (ANYONE, AGENTS, "bulk", "bulk"),
        (BULK_ONLY, PLAIN, None, "bulk"),
        (BULK_ONLY, AGENTS, None, "bulk"),
        (BULK_ONLY, AGENTS, "bulk", "bulk"),
        (BULK_OR_CHAT, PLAIN, None, "chat"),
        (BULK_OR_CHAT, PLAIN, "bulk", "bulk"),
        (BULK_OR_CHAT, AGENTS, None, "chat"),
    ],
)
def test_the_request_comes_before_the_key_the_model_and_the_default(
    key: Key, model: Model, asked: str | None, granted: str
) -> None:
    assert class_of(CONFIG, key, model, asked).name == granted


@pytest.mark.parametrize("key", [ANYONE, BULK_ONLY])
@pytest.mark.parametrize("asked", ["", "Bulk", "bulk ", "x" * 5000, "é"])
def test_a_class_that_does_not_exist_is_the_clients_mistake_whoever_asks(key: Key, asked: str) -> None:
    with pytest.raises(BadRequest) as caught:
        class_of(CONFIG, key, PLAIN, asked)
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "unknown_class", "x-headway-class")
    assert error.message.endswith("it may use " + ("bulk" if key is BULK_ONLY else "bulk, chat, agents"))
    assert len(error.message) < 200 and not error.should_retry


def test_a_class_that_the_key_may_not_use_is_403_with_those_it_may() -> None:
    with pytest.raises(BadRequest) as caught:
        class_of(CONFIG, BULK_OR_CHAT, PLAIN, "agents")
    error = caught.value
    assert (error.status, error.code, error.param) == (403, "class_not_allowed", "x-headway-class")
    assert error.message == "this key may not use the class 'agents'; it may use bulk, chat"


@pytest.mark.parametrize(
    ("named", "asked"),
    [
        ({}, None),
        ({b"x-headway-class": b"bulk"}, "bulk"),
        ({b"x-headway-class": b"nonsense"}, "nonsense"),
        ({b"x-llm-d-inference-objective": b"bulk"}, "bulk"),
        ({b"x-gateway-inference-objective": b"agents"}, "agents"),
        ({b"x-llm-d-inference-objective": b"sheddable"}, None),
        ({b"x-llm-d-inference-objective": b"\xff"}, None),
        ({b"x-llm-d-inference-objective": b"other", b"x-gateway-inference-objective": b"bulk"}, "bulk"),
        ({b"x-headway-class": b"chat", b"x-llm-d-inference-objective": b"bulk"}, "chat"),
    ],
)
def test_our_header_always_asks_and_others_only_where_they_name_a_class(
    named: dict[bytes, bytes], asked: str | None
) -> None:
    assert asked_class(CONFIG, named) == asked


def test_without_classes_in_the_file_there_are_two() -> None:
    assert class_of(Config({}, {}), ANYONE, PLAIN, None).name == "interactive"
    assert class_of(Config({}, {}), ANYONE, PLAIN, "async").filler is not None
