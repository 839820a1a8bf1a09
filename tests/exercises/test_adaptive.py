"""The checker accepts a thorough test of AdamW and names the fault that a weaker one lets through."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nnopt import exercises
from nnopt.optimizers import adam_step

STRONG: dict[str, Any] = {"lr": 0.03, "betas": (0.7, 0.9), "eps": 1e-4, "weight_decay": 0.2}


def make_test(
    scale: float = 1e-3, first_step: int = 1, num_steps: int = 8, purity: bool = True, **changed: Any
) -> Callable[[exercises.AdamFunction], bool]:
    form = {**STRONG, **changed}

    def accepts(adam: exercises.AdamFunction) -> bool:
        ours = truth = torch.ones(3, dtype=torch.float64)
        state = true_state = (torch.zeros_like(ours), torch.zeros_like(ours))
        for step in range(first_step, first_step + num_steps):
            gradient = scale * torch.tensor([1.0, 0.1, -2.0], dtype=torch.float64) * step
            kept = [tensor.clone() for tensor in (ours, *state)]
            truth, *true = adam_step(truth, gradient, *true_state, step=step, **form)
            true_state = (true[0], true[1])
            copies: list[Tensor] = [ours, *state] if purity else [tensor.clone() for tensor in (ours, *state)]
            new = adam(copies[0], gradient, copies[1], copies[2], step=step, **form)
            if purity and not all(map(torch.equal, (ours, *state), kept)):
                return False
            ours, state = new[0], (new[1], new[2])
        return torch.allclose(ours, truth, rtol=1e-9, atol=1e-12)

    return accepts


def test_a_thorough_test_passes() -> None:
    verdict = exercises.check_adam_test(make_test())
    assert verdict
    assert repr(verdict) == "✓ Your test accepts AdamW and refuses six faulty copies."


@pytest.mark.parametrize(
    ("weak", "message"),
    [
        (make_test(first_step=10**7), "without bias correction"),
        (make_test(scale=1e9), "adds ε before bias correction"),
        (make_test(weight_decay=0.0), "decay passes through the gradient"),
        (make_test(purity=False), "changes its arguments"),
        (lambda adam: True, "without bias correction"),
        (lambda adam: False, "refuses a right AdamW"),
    ],
)
def test_a_weak_test_is_told_what_it_lets_through(weak: Callable[[exercises.AdamFunction], bool], message: str) -> None:
    verdict = exercises.check_adam_test(weak)
    assert not verdict
    assert message in repr(verdict)


def test_the_planted_eps_inside_the_root_is_what_its_name_says() -> None:
    from nnopt.exercises.adaptive import _wrong_ones

    inside = _wrong_ones()["with ε inside the root"]
    gradient, zeros = torch.tensor([3e-4], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    new, first, second = inside(zeros, gradient, zeros, zeros, step=1, **{**STRONG, "weight_decay": 0.0})
    assert float(new) == pytest.approx(-0.03 * 3e-4 / (9e-8 + 1e-8) ** 0.5, rel=1e-12)
    assert float(second) == pytest.approx(0.1 * 9e-8)
    assert float(first) == pytest.approx(0.3 * 3e-4)
