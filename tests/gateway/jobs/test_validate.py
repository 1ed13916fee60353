"""Lines of an input file: found from any split, judged as requests are, keyed so that like prompts stay together."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ask import Ask
from gateway.core.lengths import Lengths
from gateway.fields import digest
from gateway.intake import Intake
from gateway.jobs import validate
from gateway.jobs.model import Batch, Item
from gateway.jobs.sqlite import SqliteStore
from gateway.jobs.validate import Lines, Splitter, Validator, count_inputs, prefix_key
from gateway.wire.head import RequestHead
from tests.support.jobs_api import POOR, lines, said, settings

CHAT = "/v1/chat/completions"
INTAKE = Intake(settings(), lambda name: Lengths())


def judged(raw: bytes, *, endpoint: str = CHAT, poor: bool = False, longest: int = 1 << 20, piece: int = 1 << 20,
           klass: str = "async") -> tuple[Lines, list[Item]]:  # fmt: skip
    batch = Batch("batch_1", "alice", klass, endpoint, "file-1", "24h", "validating", 0.0, 1.0)
    key = INTAKE.key_of(digest(POOR.encode() if poor else b"sk-alice"))
    assert key is not None
    found, made, items = Splitter(longest), Lines(batch, key, INTAKE, longest), []
    for at in range(0, len(raw), piece):
        items += [made.judge(*line) for line in found.feed(raw[at : at + piece])]
    items += [made.judge(*line) for line in found.rest()]
    return made, [item for item in items if item is not None]


@given(st.lists(st.binary(max_size=12), max_size=8).map(b"\n".join), st.integers(1, 9))
def test_lines_are_the_same_from_any_split(raw: bytes, step: int) -> None:
    splitter = Splitter(1 << 20)
    found = []
    for at in range(0, len(raw), step):
        found += list(splitter.feed(raw[at : at + step]))
    found += list(splitter.rest())
    whole = raw.split(b"\n")
    if not whole[-1]:
        whole.pop()
    assert [line for _, _, line in found] == [line.removesuffix(b"\r") for line in whole]
    assert [number for number, _, _ in found] == list(range(1, len(whole) + 1))
    assert all(raw[offset:].startswith(line) for (_, offset, _), line in zip(found, whole, strict=True))


@given(st.lists(st.text(max_size=20), min_size=1, max_size=6), st.sampled_from([b"\n", b"\r\n"]), st.integers(1, 70),
       st.booleans(), st.booleans())  # fmt: skip
def test_an_item_is_where_its_body_stands(texts: list[str], end: bytes, piece: int, bom: bool, last: bool) -> None:
    raw = lines(*(said(text) for text in texts)).replace(b"\n", end)
    raw = (b"\xef\xbb\xbf" if bom else b"") + (raw + end if last else raw.removesuffix(end))
    made, items = judged(raw, piece=piece)
    assert (made.errors, made.total, made.model) == ([], len(texts), "m")
    assert [(item.line, item.custom_id) for item in items] == [(n, f"c{n}") for n in range(1, len(texts) + 1)]
    bodies = [json.loads(raw[item.offset : item.offset + item.length]) for item in items]
    assert bodies == [said(text) for text in texts]


def test_a_body_is_found_wherever_it_stands_in_its_line() -> None:
    body = json.dumps(said())
    for line in (
        f'{{"body": {body}, "custom_id": "{body[2:7]}", "method": "POST", "url": "{CHAT}"}}',
        f' {{"custom_id": "a", "body":{body} , "method": "POST", "url": "{CHAT}", "more": {{}}}}  ',
        f'{{"x": {body}, "custom_id": "a", "method": "POST", "url": "{CHAT}", "body": {body}}}',
    ):
        made, (item,) = judged(line.encode())
        assert made.errors == [] and line[item.offset : item.offset + item.length] == body


def line(**more: Any) -> bytes:
    whole = {"custom_id": "a", "method": "POST", "url": CHAT, "body": said(), **more}
    return json.dumps({name: value for name, value in whole.items() if value is not None}).encode() + b"\n"


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (b"{\n", "invalid_json_line", None),
        (b"[]\n", "invalid_value", None),
        (b"null\n", "invalid_value", None),
        (b"\xff\xfe{\x00\n", "invalid_json_line", None),
        (line()[:-2] + b"} x\n", "invalid_json_line", None),
        (line(custom_id="\x00").replace(b"\\u0000", b"\xff"), "invalid_json_line", None),
        (line(custom_id=None), "missing_required_parameter", "custom_id"),
        (line(custom_id=7), "invalid_value", "custom_id"),
        (line(custom_id=""), "invalid_custom_id", "custom_id"),
        (line(custom_id="x" * 513), "invalid_custom_id", "custom_id"),
        (line(method=None), "missing_required_parameter", "method"),
        (line(method="GET"), "invalid_method", "method"),
        (line(method="post"), "invalid_method", "method"),
        (line(url="/v1/completions"), "invalid_url", "url"),
        (line(url="https://api.openai.com" + CHAT), "invalid_url", "url"),
        (line(body=None), "missing_required_parameter", "body"),
        (line(body=[]), "invalid_body", "body"),
        (line(body="{}"), "invalid_body", "body"),
        (line(body={"messages": []}), "model_missing", "model"),
        (line(body=said(model="none")), "model_not_found", "model"),
        (line(body=said(stream=True)), "stream_not_allowed", "body.stream"),
        (line(body=said(n=1000)), "invalid_value", "n"),
        (line(body=said(max_tokens="many")), "invalid_value", "max_tokens"),
        (line()[:-3] + b', "model": "other"}}\n', "repeated_key", "model"),
        (line(body=said(x=json.loads("[" * 70 + "]" * 70))), "invalid_json", None),
        (line(body=said("x" * 3000)), "line_too_long", None),
    ],
)
def test_a_line_that_is_wrong_is_named_with_its_number(raw: bytes, code: str, param: str | None) -> None:
    made, items = judged(line(custom_id="first") + b"\r\n" + raw + line(custom_id="last"), longest=2000)
    assert [(error.line, error.code, error.param) for error in made.errors] == [(3, code, param)]
    assert [item.custom_id for item in items] == ["first", "last"]


def test_ids_are_used_once_and_a_batch_is_for_one_model_by_whichever_of_its_names() -> None:
    made, _ = judged(line() + line(custom_id="b", body=said(model="alias")) + line())
    assert [(error.line, error.code) for error in made.errors] == [(3, "duplicate_custom_id")]
    made, _ = judged(line() + line(custom_id="b", body=said(model="other")))
    assert [(error.line, error.code) for error in made.errors] == [(2, "mismatched_model")]


def test_what_a_key_may_not_use_its_batch_may_not_either() -> None:
    made, _ = judged(line(body=said(model="other")), poor=True, klass="interactive")
    assert [error.code for error in made.errors] == ["model_not_allowed"]
    made, _ = judged(line(), poor=True)
    assert [error.code for error in made.errors] == ["class_not_allowed"]


def test_blank_lines_are_no_requests() -> None:
    made, items = judged(b"\n" + line() + b"  \r\n\n" + line(custom_id="b") + b"\n\n  ")
    assert (made.errors, made.total, [item.line for item in items]) == ([], 2, [2, 5])


def test_a_file_has_so_many_lines_and_inputs_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "LINES", 2)
    made, _ = judged(line() + line(custom_id="b") + line(custom_id="c"))
    assert [error.code for error in made.errors] == ["too_many_requests"] and made.is_hopeless
    monkeypatch.undo()
    monkeypatch.setattr(validate, "INPUTS", 3)
    url = "/v1/embeddings"
    raw = lines(
        {"model": "m", "input": ["a", "b"]}, {"model": "m", "input": "c"}, {"model": "m", "input": "d"}, url=url
    )
    made, _ = judged(raw, endpoint=url)
    assert [(error.line, error.code) for error in made.errors] == [(3, "too_many_inputs")]


@pytest.mark.parametrize(
    ("given_", "count"),
    [('"a"', 1), ('["a", "b"]', 2), ("[1, 2, 3]", 1), ("[[1], [2, 3]]", 2), ("[]", 1), ("null", 1)],
)
def test_inputs_to_embed_are_counted_as_texts(given_: str, count: int) -> None:
    assert count_inputs(b'{"model": "m", "input": %b}' % given_.encode()) == count


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_prompts_that_begin_alike_have_keys_that_begin_alike(start: bytes, one: bytes, other: bytes) -> None:
    a, b = prefix_key(start + one), prefix_key(start + other)
    alike = sum(1 for depth in validate._DEPTHS if depth <= len(start))
    assert a[: 4 * alike] == b[: 4 * alike]
    assert max(len(a), len(b)) <= 64 and (a == b) == (one == other)


def test_sorting_by_key_brings_shared_prefixes_together() -> None:
    starts = [f"{n} system prompt ".encode() * 40 for n in range(5)]
    prompts = [start + f"question {q}".encode() * 30 for q in range(6) for start in starts]
    order = [starts.index(prompt[: len(starts[0])]) for prompt in sorted(prompts, key=prefix_key)]
    assert sum(1 for one, other in pairwise(order) if one != other) == len(starts) - 1


async def test_a_batch_that_a_bug_stops_does_not_stand_before_all_others(tmp_path: Path) -> None:
    """The store gives a batch again to who holds it: the validator asked for the next one and got the same."""
    store = SqliteStore(str(tmp_path / "jobs.db"))
    now, made = time.time(), []
    for text in ("bad", "good"):
        writer = await store.new_file("alice", "in.jsonl", "batch", now)
        await writer.write(lines(said(text)))
        file = await writer.finish(now)
        made.append((await store.create_batch("alice", "async", file.id, CHAT, "24h", now + 3600.0, now,
                                              key_digest=digest(b"sk-alice")))[0].id)  # fmt: skip

    class Buggy(Intake):
        def of_job(self, head: RequestHead, body: bytes, *rest: Any) -> Ask:
            if b"bad" in body:
                raise KeyError("a bug")
            return super().of_job(head, body, *rest)

    validator = Validator(store, "v", lambda: Buggy(settings(), lambda name: Lengths()), lambda: 1 << 20)
    with pytest.raises(KeyError):
        await validator.next()
    assert await validator.next()
    assert [(await store.batch("alice", id_)).status for id_ in made] == ["validating", "in_progress"]
    await store.close()
