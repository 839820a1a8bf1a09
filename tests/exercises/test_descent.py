"""The checker accepts every right way to the edge and refuses the planted wrong ones."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nnopt import exercises
from nnopt.exercises._verdict import judge_test


def power_iteration(hessian: Tensor) -> float:
    shifted = hessian + 20 * torch.eye(len(hessian), dtype=hessian.dtype)
    vector = torch.ones(len(hessian), dtype=hessian.dtype) + torch.arange(len(hessian)) / 7
    for _ in range(3000):
        vector = shifted @ vector
        vector = vector / vector.norm()
    return 2 / float(vector @ hessian @ vector)


@pytest.mark.parametrize("right", [lambda h: 2 / torch.linalg.eigvalsh(h)[-1], power_iteration])
def test_right_answers_pass(right: Callable[[Tensor], float]) -> None:
    verdict = exercises.check_stability_edge(right)
    assert verdict
    assert repr(verdict) == "✓ Your edge is right on every hidden Hessian."


def changes_its_input(hessian: Tensor) -> float:
    edge = float(2 / torch.linalg.eigvalsh(hessian)[-1])
    hessian.zero_()
    return edge


WRONG = {
    "one over the curvature": lambda h: 1 / torch.linalg.eigvalsh(h)[-1],
    "the smallest eigenvalue": lambda h: 2 / torch.linalg.eigvalsh(h)[0].abs(),
    "the diagonal": lambda h: 2 / h.diagonal().max(),
    "the trace": lambda h: 2 / h.trace(),
    "the Frobenius norm": lambda h: 2 / h.norm(),
    "the spectral norm": lambda h: 2 / torch.linalg.matrix_norm(h, 2),
    "NaN": lambda h: float("nan"),
    "changes its input": changes_its_input,
}


@pytest.mark.parametrize("name", WRONG)
def test_planted_wrong_answers_are_refused(name: str) -> None:
    verdict = exercises.check_stability_edge(WRONG[name])
    assert not verdict
    assert repr(verdict).startswith("✗ ")


def test_a_readers_test_is_judged_by_what_it_accepts() -> None:
    wrong = {"always one": lambda: 1, "always three": lambda: 3}

    def good(f: Callable[[], int]) -> None:
        assert f() == 2

    def refuses_all(f: Callable[[], int]) -> bool:
        return f() > 99

    def too_mild(f: Callable[[], int]) -> bool:
        return f() >= 2

    assert judge_test(good, lambda: 2, wrong)
    assert "refuses a correct" in judge_test(refuses_all, lambda: 2, wrong).sentence
    assert "always three" in judge_test(too_mild, lambda: 2, wrong).sentence
