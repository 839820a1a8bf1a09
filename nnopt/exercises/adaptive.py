"""Exercises of the chapter ``optimizers/adaptive``."""

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

from nnopt.optimizers import adam_step

from ._verdict import Verdict

__all__ = ["AdamFunction", "check_adam_test"]

AdamFunction: TypeAlias = Callable[..., tuple[Tensor, Tensor, Tensor]]
"""``adam(parameter, gradient, first, second, *, step, lr, betas, eps, weight_decay)`` -> the new three tensors."""


def check_adam_test(candidate: Callable[[AdamFunction], bool]) -> Verdict:
    """Check a test of AdamW: it must accept a right implementation and refuse six wrong ones.

    Args:
        candidate: takes an implementation and returns whether it passes.

    Returns:
        A verdict that names the first implementation that was judged wrongly.
    """
    if not candidate(adam_step):
        return Verdict(False, "Your test refuses a right AdamW: perhaps it is stricter than rounding allows.")
    for name, wrong in _wrong_ones().items():
        if candidate(wrong):
            return Verdict(False, f"Your test accepts an AdamW {name}.")
    return Verdict(True, "Your test accepts AdamW and refuses six faulty copies.")


def _wrong_ones() -> dict[str, AdamFunction]:
    """Return faults that are found in the wild, by name."""

    def uncorrected(*tensors: Tensor, step: int, **form: Any) -> tuple[Tensor, Tensor, Tensor]:
        return adam_step(*tensors, step=step + 10**6, **form)

    def eps_first(*tensors: Tensor, step: int, eps: float, **form: Any) -> tuple[Tensor, Tensor, Tensor]:
        late = eps / (1 - form["betas"][1] ** step) ** 0.5
        return adam_step(*tensors, step=step, eps=late, **form)

    def eps_inside(*tensors: Tensor, step: int, eps: float, **form: Any) -> tuple[Tensor, Tensor, Tensor]:
        parameter, gradient, first, second = tensors
        # a second moment larger by ε² (1 − β₂ᵗ) / β₂ before this step is ε² inside the corrected root
        larger = second + eps**2 * (1 - form["betas"][1] ** step) / form["betas"][1]
        new, first, _ = adam_step(parameter, gradient, first, larger, step=step, eps=0.0, **form)
        return new, first, adam_step(*tensors, step=step, eps=eps, **form)[2]

    def coupled(*tensors: Tensor, **form: Any) -> tuple[Tensor, Tensor, Tensor]:
        return adam_step(*tensors, decoupled=False, **form)

    def a_step_ahead(*tensors: Tensor, step: int, **form: Any) -> tuple[Tensor, Tensor, Tensor]:
        return adam_step(*tensors, step=step + 1, **form)

    def in_place(
        parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, **form: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        new = adam_step(parameter, gradient, first, second, **form)
        return parameter.copy_(new[0]), first.copy_(new[1]), second.copy_(new[2])

    return {
        "without bias correction": uncorrected,
        "that adds ε before bias correction": eps_first,
        "with ε inside the root": eps_inside,
        "whose decay passes through the gradient": coupled,
        "whose steps are counted from 2": a_step_ahead,
        "that changes its arguments": in_place,
    }
