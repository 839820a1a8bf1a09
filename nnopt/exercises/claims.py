"""Exercises of the chapter ``measurement/claims``."""

from collections.abc import Callable

import numpy as np

from ._verdict import Verdict

__all__ = ["check_decision_rule"]

_NUM_TRIALS = 500


def check_decision_rule(candidate: Callable[[list[float], float], bool]) -> Verdict:
    """Check a rule that decides from paired differences whether a method is better by a margin.

    Args:
        candidate: takes the paired differences of 8 runs and a margin, and returns whether to claim that
            the true mean difference exceeds the margin.

    Returns:
        A verdict after 500 effects that lie exactly at the margin, of which at most 5 % may be claimed,
        and 500 that lie 1.5 standard deviations beyond it, of which at least 80 % must be.
    """
    rng = np.random.default_rng(20)
    for margin, spread in ((0.0, 1.0), (0.01, 0.004), (-2.0, 3.0)):
        noise = rng.normal(0.0, spread, size=(2, _NUM_TRIALS, 8))
        rates = []
        for effect, draws in zip((margin, margin + 1.5 * spread), noise, strict=True):
            rates.append(sum(bool(candidate((effect + row).tolist(), margin)) for row in draws) / _NUM_TRIALS)
        false, found = rates
        if false > 0.05:
            return Verdict(
                False, f"At margin {margin:g} your rule claims {100 * false:.0f} % of effects that just miss it."
            )
        if found < 0.8:
            return Verdict(
                False, f"At margin {margin:g} your rule finds only {100 * found:.0f} % of the clear effects."
            )
    return Verdict(True, "Your rule makes few false claims and finds the clear effects.")
