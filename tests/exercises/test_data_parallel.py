"""The checker accepts every right average over real processes and refuses the planted wrong ones."""

import pytest

from nnopt import exercises
from tests.exercises import averaging


@pytest.mark.parametrize("name", averaging.RIGHT)
def test_right_averages_pass(name: str) -> None:
    verdict = exercises.check_averaging(getattr(averaging, name))
    assert repr(verdict) == "✓ Your average is the gradient of the whole batch, however uneven the parts are."


@pytest.mark.parametrize("name", averaging.WRONG)
def test_planted_wrong_averages_are_refused_in_words(name: str) -> None:
    verdict = exercises.check_averaging(getattr(averaging, name))
    assert not verdict
    assert averaging.WRONG[name] in verdict.sentence


def test_a_rank_that_waits_for_ever_is_a_verdict_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnopt.exercises.data_parallel._DEADLINE_S", 2.0)
    verdict = exercises.check_averaging(averaging.only_where_there_are_rows)
    assert repr(verdict) == "✗ Your function waits for ever: every rank must call the same collectives."


def test_a_function_without_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match="a lambda: put it into a file of its own"):
        exercises.check_averaging(lambda gradient, num_rows: gradient)
