"""The checker accepts patient tuners and refuses the planted careless ones."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from nnopt import exercises

Train = Callable[[float], float]
Tuner = Callable[[Train], float]


def mean_over_seeds(train: Train) -> float:
    """Eight rates over the whole range twice, then the neighborhood of the best three, by a parabola."""
    rates = np.geomspace(1e-4, 2, 11)
    scores = [np.mean([train(r) for _ in range(2)]) for r in rates]
    usable = [(s, r) for s, r in zip(scores, rates, strict=True) if math.isfinite(s)]
    x, y = np.log([r for _, r in usable]), np.array([s for s, _ in usable])
    a, b, _ = np.polyfit(x, y, 2)
    return float(np.exp(np.clip(-b / (2 * a), x[0], x[-1]))) if a > 0 else usable[int(y.argmin())][1]


def test_a_tuner_that_fits_the_valley_passes() -> None:
    verdict = exercises.check_tuner(mean_over_seeds)
    assert verdict, verdict.sentence


def best_on(rates: list[float], repeats: int = 1) -> Tuner:
    def tune(train: Train) -> float:
        scores = {rate: sum(train(rate) for _ in range(repeats)) / repeats for rate in rates}
        finite = {rate: score for rate, score in scores.items() if math.isfinite(score)}
        return min(finite, key=finite.__getitem__) if finite else rates[0]

    return tune


WRONG: dict[str, Tuner] = {
    "the default rate": lambda train: 0.01,
    "a grid that is even on the linear scale": best_on(np.linspace(0.01, 2, 32).tolist()),
    "a narrow grid": best_on([0.03, 0.1, 0.3], 10),
    "more runs than allowed": best_on(np.geomspace(1e-4, 2, 32).tolist(), 2),
    "takes a diverged run for the best": lambda train: min(
        np.geomspace(1e-4, 2, 32).tolist(), key=lambda rate: np.nan_to_num(train(rate), nan=-1.0)
    ),
    "the largest that does not diverge": lambda train: max(
        (rate for rate in np.geomspace(1e-4, 2, 32).tolist() if math.isfinite(train(rate))), default=1e-4
    ),
    "a negative rate": lambda train: -0.1,
}


@pytest.mark.parametrize("name", WRONG)
def test_planted_careless_tuners_are_refused(name: str) -> None:
    assert not exercises.check_tuner(WRONG[name])
