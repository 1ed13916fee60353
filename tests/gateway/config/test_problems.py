"""How faults are told: in the order of the file, on one line each, with what was meant."""

from gateway.config.problems import MOST_PROBLEMS, ConfigError, Problem, did_you_mean, shown


def test_problems_are_printed_one_a_line_in_order() -> None:
    error = ConfigError([Problem("f", 2, 1, "second"), Problem("f", 1, 5, "first", "a hint")])
    assert str(error) == "f:1:5: first (a hint)\nf:2:1: second"


def test_a_list_that_was_cut_says_so() -> None:
    error = ConfigError([Problem("f", n, 1, "x") for n in range(MOST_PROBLEMS)])
    assert str(error).endswith("\nf: too many problems, reading stopped")


def test_the_nearest_name_is_suggested_and_a_far_one_is_not() -> None:
    assert did_you_mean("enigne", ["engine", "endpoints"]) == "did you mean `engine`?"
    assert did_you_mean("zzz", ["engine", "endpoints"]) == ""
    assert did_you_mean("zzz", ["only"]) == "did you mean `only`?"
    assert did_you_mean("zzz", []) == ""


def test_a_value_is_shown_on_one_short_line() -> None:
    assert shown("a\nb\x1b[0m") == "`a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[0m`"
    assert len(shown("x" * 10_000)) == 63
