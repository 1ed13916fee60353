"""Classes, keys, limits, jobs and shared counts: every mistake at its line and column, with what to do about it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.loader import Loaded
from gateway.config.problems import Problem

Read = Callable[..., Loaded]
Faults = Callable[..., tuple[Problem, ...]]

TWO = "classes: {interactive: {default: true, priority: 10}, async: {%s}}\n"
LIMITED = "keys: {k: {tenant: t, limits: {%s}}}\n"
JOBS = "jobs: {store: 'sqlite:j.db', %s}\n"
OUT = "leave it out for no limit; to shut a client out, take its key out of the file"
RATES = "write 100/s, 6000/m, 1000/h or 5000/d"
SCHEME = "write sqlite:headway-jobs.db or redis://host:6379/0"
REDIS = "write it as redis://host:6379/0, or rediss://… for TLS"
HOSTS = "write hooks.example.com, or *.example.com for all hosts below it"

# The text with `¦` before the place of the fault, the message, and the suggestion.
WRONG = [
    # classes
    ("classes: ¦{}\n", "`classes` is empty", "at least 1 is expected"),
    ("classes: ¦[interactive]\n", "a mapping is expected", ""),
    ("¦classes: {a: {}, b: {default: false}}\n", "no class is the default", "write {default: true} in one of a, b"),
    ("classes: {a: {default: true}, b: {default: ¦true}}\n",
     "contradictory: `a` is the default class already", "exactly one is"),
    ("classes: {a: {default: true, ¦prioritty: 1}}\n", "unknown key `prioritty`", "did you mean `priority`?"),
    ("classes: {a: {default: ¦yes}}\n", "`yes` is neither `true` nor `false`", "write true or false"),
    ("classes: {a: {default: true, priority: ¦high}}\n",
     "`high` is not a number", "a plain integer is expected, such as 128"),
    ("classes: {a: {default: true, priority: ¦1000000}}\n",
     "number out of range: `1000000`", "from 0 to 999999"),
    ("classes: {a: {default: true, queue: {order: ¦lifo}}}\n",
     "`lifo` is not one of fifo, deadline, fair", "did you mean `fifo`?"),
    ("classes: {a: {default: true, queue: {wait: ¦10}}}\n", "not a duration: `10`", "with a unit: 10s"),
    ("classes: {a: {default: true, queue: {limit: ¦-1}}}\n", "number out of range: `-1`", "from 0 to 9007199254740992"),
    ("classes: {a: {default: true, late: ¦drop}}\n", "`drop` is not one of refuse, serve", ""),
    ("classes: {a: {default: true, reserve: ¦0.2}}\n", "not a share: `0.2`", "write a percentage such as 5% or 0.5%"),
    ("classes: {a: {default: true, reserve: 60%}, b: {reserve: 40%}, c: {reserve: ¦0.5%}}\n",
     "contradictory: 100.5% of every pool would be reserved",
     "the shares of all classes together are at most 100%"),
    ("classes: {¦a b: {default: true}}\n", "`a b` is not a name of letters, digits and ._- (at most 64)", ""),
    # fillers
    (TWO % "filler: {protect: ¦async}",
     "contradictory: filler `async` cannot protect itself", "name one of interactive"),
    (TWO % "filler: {protect: ¦interactiv}",
     "class `interactiv` does not exist", "did you mean `interactive`?"),
    ("classes: {chat: {default: true}, async: {priority: -1, filler: ¦{}}}\n",
     "class `interactive` does not exist", "there are chat, async"),
    (TWO % "priority: ¦11, filler: {}",
     "contradictory: filler `async` would go before `interactive`, which it protects", "give it a priority below 10"),
    ("classes: {interactive: {default: true}, async: {filler: ¦{}}}\n",
     "contradictory: filler `async` would go level with `interactive`, which it protects",
     "give it a priority below 0"),
    ("classes: {interactive: {default: true, priority: 2}, b: {priority: 1, filler: {}}, c: {filler: {protect: ¦b}}}\n",
     "contradictory: `b` is a filler itself", "protect the class that both give way to"),
    ("classes: {interactive: {default: true, priority: 2}, b: {filler: {}}, c: {filler: {slowdown: ¦9%}}}\n",
     "contradictory: filler `b` has another `slowdown`, and all filler shares one bound", "write the same in both"),
    ("classes: {interactive: {default: true, priority: 2}, b: {filler: {aborts: 5}}, c: {filler: ¦{}}}\n",
     "contradictory: filler `b` has another `aborts`, and all filler shares one bound", "write the same in both"),
    (TWO % "filler: ¦interactive", "a mapping is expected", "keys: protect, slowdown, promote, aborts"),
    (TWO % "filler: {slowdown: ¦5}", "not a share: `5`", "write a percentage such as 5% or 0.5%"),
    # keys and models
    ("keys: {k: {tenant: t, classes: [interactive, ¦asinc]}}\n",
     "class `asinc` does not exist", "did you mean `async`?"),
    ("keys: {k: {tenant: t, classes: ¦[]}}\n", "`classes` is empty", "at least 1 is expected"),
    ("keys: {k: {tenant: t, classes: ¦async}}\n", "a list is expected", "write [async]"),
    ("keys: {k: {tenant: t, classes: [async, ¦async]}}\n", "class repeated: `async`", "leave it out"),
    ("keys: {k: {tenant: t, ¦limit: {}}}\n", "unknown key `limit`", "did you mean `limits`?"),
    (LIMITED % "requests: ¦0/s", "a limit of 0 lets nothing through", OUT),
    (LIMITED % "requests: ¦100", "not a rate: `100`", "in what time? 100/s, 100/m, 100/h or 100/d"),
    (LIMITED % "requests: ¦100/sec", "not a rate: `100/sec`", RATES),
    (LIMITED % "requests: ¦0.5/s",
     "not a rate: `0.5/s`", "a whole number in a longer time, such as 30/m for one every 2 s"),
    (LIMITED % "tokens: ¦200_000/m", "not a rate: `200_000/m`", RATES),
    (LIMITED % "concurrency: ¦0", "a limit of 0 lets nothing through", OUT),
    (LIMITED % "tokens_per_day: ¦0", "a limit of 0 lets nothing through", OUT),
    (LIMITED % "tokens_per_day: ¦1M", "`1M` is not a number", "a plain integer is expected, such as 128"),
    (LIMITED % "tokens: ¦2000/m, tokens_per_day: 1000",
     "unreachable: `tokens` is more than the whole day's 1000", "raise tokens_per_day, or leave tokens out"),
    (LIMITED % "requests: 1/s, ¦reserve: max_tokens",
     "unreachable: `reserve` without a limit of tokens", "give tokens or tokens_per_day, or leave it out"),
    (LIMITED % "tokens: 5/s, reserve: ¦learned",
     "`learned` is not one of learnt, max_tokens", "did you mean `learnt`?"),
    # jobs
    ("¦jobs: {class: async}\n", "`store` is missing", "sqlite:FILE or redis://host:port/db"),
    ("jobs: {store: ¦jobs.db}\n", "not a store: `jobs.db`", "did you mean `sqlite:jobs.db`?"),
    ("jobs: {store: ¦'sqlite3:jobs.db'}\n", "not a store: `sqlite3:jobs.db`", "did you mean `sqlite`?"),
    ("jobs: {store: ¦'sqlite:///var/jobs.db'}\n", "not a store: `sqlite:///var/jobs.db`",
     f"{SCHEME}; an absolute path is sqlite:/var/lib/headway/jobs.db"),
    ("jobs: {store: ¦'sqlite:'}\n", "not a store: `sqlite:`",
     f"{SCHEME}; an absolute path is sqlite:/var/lib/headway/jobs.db"),
    ("jobs: {store: ¦'sqlite::memory:'}\n", "a store in memory does not keep what was accepted", SCHEME),
    ("jobs: {store: ¦'postgres://u:hunter2@db/x'}\n", "not a store: `postgres://…@db/x`", SCHEME),
    ("jobs: {store: ¦'redis://u:hunter2@h:port/0'}\n", "not a Redis URL: `redis://…@h:port/0`", REDIS),
    ("jobs: {store: ¦'redis://h:6379/first'}\n", "not a Redis URL: `redis://h:6379/first`", REDIS),
    ("jobs: {store: ¦'redis:h:6379'}\n", "not a Redis URL: `redis:h:6379`", REDIS),
    (JOBS % "class: ¦batch", "class `batch` does not exist", "there are interactive, async"),
    (JOBS % "retention: ¦30", "not a duration: `30`", "with a unit: 30s"),
    (JOBS % "callbacks: ['¦*']", "would let any host be called: `*`", HOSTS),
    (JOBS % "callbacks: ['¦*.com']", "not a host name: `*.com`", HOSTS),
    (JOBS % "callbacks: ['¦hooks-*.example.com']", "not a host name: `hooks-*.example.com`", HOSTS),
    (JOBS % "callbacks: ['¦https://a.example/hook']",
     "not a host name: `https://a.example/hook`", "the name alone, without scheme, port or path"),
    (JOBS % "callbacks: ['¦a.example:8443']",
     "not a host name: `a.example:8443`", "the name alone, without scheme, port or path"),
    (JOBS % "secret: '¦two words'", "this secret is empty or has signs that a header cannot carry",
     "printable ASCII, no spaces"),
    # shared, pools, limits
    ("shared: ¦sqlite:counts.db\n",
     "a file cannot be shared by several gateways", "write it as redis://host:6379/1"),
    ("shared: ¦http://h:6379\n", "not a Redis URL: `http://h:6379`", REDIS),
    ("shared: ¦redis://h:6379/0?db=1\n",
     "not a Redis URL: `redis://h:6379/0?db=1`", "no query, fragment or space in it"),
    ("shared: {url: redis://h/0, when_lost: ¦ignore}\n", "`ignore` is not one of local, refuse", ""),
    ("¦shared: {when_lost: local}\n", "`url` is missing", "redis://host:port/db"),
    ("limits: {file: ¦200MB}\n", "not a size: `200MB`", "write 64KiB, 8MiB or 1GiB"),
    ("defaults: {pool: {max_concurrency: ¦0}}\n", "number out of range: `0`", "from 1 to 9007199254740992"),
    ("defaults: {pool: {priority: ¦10}}\n", "`10` is neither `true` nor `false`", "write true or false"),
]  # fmt: skip


def marked(text: str) -> tuple[str, int, int]:
    """The text without its mark, and the mark's line and column; a mark inside a quote stands for the quote."""
    before, _, after = text.partition("¦")
    column = len(before.rpartition("\n")[2]) + 1
    return before + after, before.count("\n") + 1, column - before.endswith("'")


@pytest.mark.parametrize(("text", "message", "hint"), WRONG, ids=[text for text, *_ in WRONG])
def test_a_mistake_is_told_where_it_is_with_what_to_do(
    faults: Faults, good: str, text: str, message: str, hint: str
) -> None:
    whole, line, column = marked(good + text)
    (fault,) = faults(whole)
    assert (fault.line, fault.column, fault.message, fault.hint) == (line, column, message, hint)


def test_a_models_class_must_exist(faults: Faults, good: str) -> None:
    whole, line, column = marked(good.replace("{to: p}", "{to: p, class: ¦intractive}"))
    (fault,) = faults(whole)
    assert (fault.line, fault.column, fault.told) == (
        line, column, "class `intractive` does not exist (did you mean `interactive`?)")  # fmt: skip


def test_the_place_is_right_in_a_file_of_many_lines(faults: Faults, good: str) -> None:
    whole, *_ = marked(good + "classes:\n  chat:\n    default: true\n  bulk:\n    filler:\n      protect: caht\n")
    assert [str(fault) for fault in faults(whole)] == [
        "headway.yaml:14:16: class `caht` does not exist (did you mean `chat`?)"
    ]


def test_names_are_not_complained_of_where_the_classes_could_not_be_read(faults: Faults, good: str) -> None:
    text = good.replace("{to: p}", "{to: p, class: chat}") + "classes: 7\nkeys: {k: {tenant: t, classes: [chat]}}\n"
    assert [(fault.line, fault.message) for fault in faults(text)] == [(9, "a mapping is expected")]
    text = good.replace("{to: p}", "{to: p, class: chat}") + "classes: {chat: 7, other: {default: true}}\n"
    assert [(fault.line, fault.message) for fault in faults(text)] == [(9, "a mapping is expected")]


def test_a_file_of_very_many_classes_gets_a_short_answer(faults: Faults, good: str) -> None:
    many = "".join(f"  c{number}: {{filler: {{protect: nobody}}}}\n" for number in range(5000))
    found = faults(good + "classes:\n" + many)
    assert found[0].hint == "write {default: true} in one of c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, …"
    assert max(len(fault.told) for fault in found) < 200


def test_passwords_are_not_shown(faults: Faults, read: Read, good: str) -> None:
    env = {"URL": "redis://:hunter2@redis/x", "PASSWORD": "hunter2", "ODD": "hunter2"}
    for text in ("shared: ${URL}\n", "shared: redis://:${PASSWORD}@redis/x\n", "shared: ${ODD}\n",
                 "jobs: {store: '${URL}'}\n", "jobs: {store: '${ODD}'}\n", "jobs: {store: 'redis:${ODD}@h:x'}\n",
                 "jobs: {store: '${ODD}://h'}\n"):  # fmt: skip
        found = faults(good + text, env)
        assert found and "hunter2" not in "".join(map(str, found))
    loaded = read(good + "shared: redis://:${PASSWORD}@redis/1\n", env)
    assert "hunter2" not in repr(loaded)
    assert loaded.config.shared is not None and "hunter2" in loaded.config.shared.url.reveal()


def test_a_store_is_a_file_in_a_folder_that_is_there(faults: Faults, read: Read, good: str, tmp_path: Path) -> None:
    (fault,) = faults(good + f"jobs: {{store: 'sqlite:{tmp_path}'}}\n")
    assert fault.message == f"not a store: `{tmp_path}` is a folder"
    assert fault.hint == f"name a file in it: sqlite:{tmp_path}/headway-jobs.db"
    (fault,) = faults(good + f"jobs: {{store: 'sqlite:{tmp_path}/no/jobs.db'}}\n")
    assert fault.told == f"the folder of `{tmp_path}/no/jobs.db` does not exist (looked for `{tmp_path}/no/jobs.db`)"
    for text, path in ((f"sqlite:{tmp_path}/a.db", f"{tmp_path}/a.db"), ("sqlite:./a.db", os.path.abspath("a.db"))):
        jobs = read(good + f"jobs: {{store: '{text}'}}\n").config.jobs
        assert jobs is not None and jobs.store.reveal() == f"sqlite:{path}"


@pytest.mark.parametrize(
    "url", ["redis://h", "redis://h:1/0", "rediss://u:p@h:1/15", "redis://[::1]:6379/1", "redis://:p%40@10.0.0.1"]
)
def test_every_usual_form_of_a_redis_url_is_taken_as_it_is(read: Read, good: str, url: str) -> None:
    config = read(good + f"shared: '{url}'\njobs: {{store: '{url}'}}\n").config
    assert config.shared is not None and config.shared.url.reveal() == url
    assert config.jobs is not None and config.jobs.store.reveal() == url


@pytest.mark.parametrize(
    "text",
    [
        "classes: {a: {default: true, priority: 1}, b: {priority: 1}}\n",
        "classes: {a: {default: true, reserve: 30%}, b: {reserve: 70%}}\n",
        "classes: {a: {default: true, queue: {order: deadline, wait: 1h}}}\n",
        "classes: {a: {default: true, priority: -5}, b: {priority: -6, filler: {protect: a, slowdown: 0%}}}\n",
        "classes: {solo: {default: true}}\n",
        "keys: {'sha256:" + "0" * 64 + "': {tenant: t, limits: {tokens: 1000/m, tokens_per_day: 1000}}}\n",
        "keys: {'sha256:" + "0" * 64 + "': {tenant: t, classes: null, limits: null}}\n",
        "jobs: null\nshared: null\n",
    ],
)
def test_what_only_looks_odd_is_taken_without_a_word(read: Read, good: str, text: str) -> None:
    assert read(good + text).warnings == ()


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (JOBS % "class: ¦interactive", "class `interactive` is no filler: batches compete with the others",
         "give the class {filler: {protect: …}}"),
        (JOBS % "¦callbacks: [a.example]", "callbacks are not signed: who gets one cannot tell it from a forged one",
         'give secret: "${CALLBACK_SECRET}"'),
        (JOBS % "¦secret: s", "`secret` is unused: no callbacks are allowed", ""),
        ("¦shared: redis://h/1\n", "`shared` is unused: no key has limits", "give one `limits:`"),
        ("classes: {a: {default: true}, ¦b: {}}\nkeys: {'sha256:" + "0" * 64 + "': {tenant: t, classes: [a]}}\n",
         "class `b` is unused", "no key may use it"),
        ("defaults: {pool: {engine: tgi, ¦priority: true}}\n",
         "`priority` is unused: `http` does not schedule by priority", ""),
    ],
)  # fmt: skip
def test_what_is_only_useless_is_a_warning(read: Read, good: str, text: str, message: str, hint: str) -> None:
    whole, line, column = marked(good + text)
    (warning,) = read(whole).warnings
    assert (warning.line, warning.column, warning.message, warning.hint) == (line, column, message, hint)


def test_a_pools_limit_that_its_endpoints_never_reach_is_unused(read: Read) -> None:
    pool = "{endpoints: [{url: http://a, max_concurrency: 2}, %s], max_concurrency: %d}"
    text = f"pools: {{p: {pool}}}\nmodels: {{m: {{to: p}}}}\n"
    (warning,) = read(text % ("{url: http://b, max_concurrency: 3}", 5)).warnings
    assert warning.message == "`max_concurrency` is unused: the endpoints take 5 together"
    assert read(text % ("{url: http://b, max_concurrency: 3}", 4)).warnings == ()
    assert read(text % ("http://b", 5)).warnings == ()
