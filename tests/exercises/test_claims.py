"""The checker accepts the interval and the one-sided test, and refuses the planted wrong rules."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from nnopt import exercises

Rule = Callable[[list[float], float], bool]


def interval(values: list[float], margin: float) -> bool:
    return bool(stats.ttest_1samp(values, margin).confidence_interval(0.95).low > margin)


def one_sided(values: list[float], margin: float) -> bool:
    return bool(stats.ttest_1samp(values, margin, alternative="greater").pvalue < 0.03)


@pytest.mark.parametrize("rule", [interval, one_sided])
def test_right_rules_pass(rule: Rule) -> None:
    assert exercises.check_decision_rule(rule)


WRONG: dict[str, Rule] = {
    "the mean exceeds the margin": lambda v, m: float(np.mean(v)) > m,
    "one run": lambda v, m: v[0] > m,
    "most runs": lambda v, m: sum(x > m for x in v) > 4,
    "ignores the margin": lambda v, m: interval(v, 0.0),
    "all runs": lambda v, m: min(v) > m,
    "never": lambda v, m: False,
    "population spread of the runs, not of the mean": lambda v, m: float(np.mean(v) - 1.96 * np.std(v)) > m,
}


@pytest.mark.parametrize("name", WRONG)
def test_planted_wrong_rules_are_refused(name: str) -> None:
    assert not exercises.check_decision_rule(WRONG[name])
