"""Learning rates that listen: a plateau of the validation loss, and the range test.

Chapter: ``optimizers/schedules``.
"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nnopt.checks import require_fraction, require_integer, require_positive, require_type
from nnopt.training import StepRecord, fit
from nnopt.types import Batch, LossFn

__all__ = ["Plateau", "RangeTest", "range_test"]


class Plateau:
    r"""Shrink the learning rate whenever a loss has stopped falling.

    .. math:: s \leftarrow \gamma s \quad\text{after more than } p \text{ losses in a row that are not below }
        (1 - \tau) \min J

    Args:
        factor: γ, in [0, 1).
        patience: p, losses without a new best that are put up with, at least 0.
        threshold: τ, a loss must be lower by this fraction to count, in [0, 1).
        lowest: the multiplier never falls below, in [0, 1].

    Raises:
        ValueError: a number is out of range or NaN.
        TypeError: ``patience`` is not an integer.

    Convention:
        ``torch.optim.lr_scheduler.ReduceLROnPlateau`` in its modes ``min`` and ``rel``, without cooldown. Of a
        negative best loss the fraction is taken of its size: torch's (1 − τ) min J would be above it, and count a
        loss that has risen. It is a schedule, too: ``plateau(step)`` is the multiplier now, whatever the step.

    Example:
        >>> plateau = Plateau(factor=0.5, patience=1)
        >>> [plateau.update(loss) for loss in (1.0, 0.9, 0.9, 0.9, 0.9)]
        [1.0, 1.0, 1.0, 0.5, 0.5]
    """

    def __init__(
        self, *, factor: float = 0.1, patience: int = 10, threshold: float = 1e-4, lowest: float = 0.0
    ) -> None:
        require_fraction("factor", factor, open_end=True)
        require_integer("patience", patience, minimum=0)
        require_fraction("threshold", threshold, open_end=True)
        require_fraction("lowest", lowest)
        self.factor, self.patience, self.threshold, self.lowest = factor, patience, threshold, lowest
        self.multiplier, self.best, self.waited = 1.0, math.inf, 0

    def __call__(self, step: int) -> float:
        """Return the multiplier now; the step number has no influence."""
        return self.multiplier

    def update(self, value: float) -> float:
        """Take note of one more loss and return the multiplier from here on.

        Raises:
            ValueError: the loss is NaN.
        """
        value = float(value)
        if math.isnan(value):
            raise ValueError(f"value must not be NaN, got {value!r}")
        if value < self.best * (1 - self.threshold if self.best > 0 else 1 + self.threshold):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.waited > self.patience:
            self.multiplier, self.waited = max(self.multiplier * self.factor, self.lowest), 0
        return self.multiplier

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"multiplier": self.multiplier, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state.

        Raises:
            ValueError: the state has other keys, or a number in it is out of range or NaN; nothing was changed.
            TypeError: one is no number.
        """
        if set(state) != {"multiplier", "best", "waited"}:
            raise ValueError(f"state must have the keys multiplier, best and waited, got {sorted(state)}")
        require_fraction("multiplier", state["multiplier"])
        require_type("best", state["best"], (int, float))
        if math.isnan(state["best"]):
            raise ValueError(f"best must not be NaN, got {state['best']!r}")
        require_integer("waited", state["waited"], minimum=0)
        self.multiplier, self.best, self.waited = state["multiplier"], state["best"], state["waited"]


@dataclass(frozen=True)
class RangeTest:
    """What a range test saw.

    Args:
        lr: the suggestion.
        rates: learning rate of each step.
        losses: smoothed loss of each step, before its update.
    """

    lr: float
    rates: list[float] = field(repr=False)
    losses: list[float] = field(repr=False)


def range_test(
    model: nn.Module,
    make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    loss_fn: LossFn,
    batches: Iterable[Batch],
    *,
    lowest: float = 1e-5,
    highest: float = 10.0,
    num_steps: int = 100,
    smoothing: float = 0.9,
    blow_up: float = 4.0,
) -> RangeTest:
    r"""Train a copy while the learning rate grows, and suggest a rate well before the loss turns.

    .. math:: \eta_t = \eta_{\min} \left(\eta_{\max} / \eta_{\min}\right)^{t / (T - 1)}

    Args:
        model: left as it is.
        make_optimizer: parameters -> optimizer; its learning rate does not matter.
        loss_fn: (predictions, targets) -> mean over the batch.
        batches: as for ``fit``.
        lowest: first learning rate, above 0.
        highest: last learning rate, above ``lowest``.
        num_steps: T, at least 2.
        smoothing: weight of the past in the moving average of the losses, in [0, 1); corrected for its start.
        blow_up: the test ends when the smoothed loss is this many times its lowest, above 1; where the loss has fallen
            by more than what is left, or is negative, when it has risen ``blow_up`` − 1 times as far as it had fallen.

    Returns:
        The suggestion, a tenth of the rate at the lowest smoothed loss (never below ``lowest``), with the curve.

    Raises:
        ValueError: a number is out of range or NaN, or what ``fit`` refuses.
        TypeError: ``num_steps`` is not an integer.
        FloatingPointError: the first loss is NaN or infinite.

    Source:
        Smith (2017), section 3.3, for the test; the tenth is a rule of thumb.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> data = [(torch.ones(4, 1), torch.zeros(4, 1))]
        >>> test = range_test(model, lambda p: torch.optim.SGD(p), nn.functional.mse_loss, data, num_steps=20)
        >>> 1e-5 < test.lr < 10
        True
    """
    require_positive("lowest", lowest)
    require_positive("highest - lowest", highest - lowest)
    require_integer("num_steps", num_steps, minimum=2)
    require_fraction("smoothing", smoothing, open_end=True)
    require_positive("blow_up - 1", blow_up - 1)
    probe = copy.deepcopy(model)
    optimizer = make_optimizer(list(probe.parameters()))
    for group in optimizer.param_groups:
        group["lr"] = lowest
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0

    def note(record: StepRecord) -> bool:
        nonlocal average
        average = smoothing * average + (1 - smoothing) * record.loss
        rates.append(float(record.lr))
        losses.append(average / (1 - smoothing**record.step))
        low = min(losses)
        return losses[-1] - low > (blow_up - 1) * max(abs(low), losses[0] - low)

    try:
        fit(
            probe,
            optimizer,
            loss_fn,
            batches,
            total_steps=num_steps,
            schedule=lambda step: (highest / lowest) ** (step / (num_steps - 1)),
            hooks=[note],
        )
    except FloatingPointError:
        # past the edge there is nothing more to learn
        if not losses:
            raise
    return RangeTest(max(rates[losses.index(min(losses))] / 10, lowest), rates, losses)
