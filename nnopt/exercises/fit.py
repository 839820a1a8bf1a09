"""Exercises of the chapter ``training/fit``."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nnopt.models import mlp

from ._verdict import Verdict

__all__ = ["TrainingRun", "check_resume"]


class TrainingRun:
    """A run with every kind of state that training can have, small enough to be killed a hundred times.

    Args:
        seed: draws the weights, the data, the batches and the noise.

    Attributes:
        model: with BatchNorm, so that it has buffers.
        optimizer: AdamW, whose rate decays with ``step``.
        order: generator that draws the batches.
        noise: generator that draws the noise on the inputs.
        step: number of updates made.
    """

    def __init__(self, seed: int) -> None:
        start = torch.Generator().manual_seed(seed)
        self.model = nn.Sequential(
            mlp((6, 8), generator=start), nn.BatchNorm1d(8), nn.ReLU(), mlp((8, 2), generator=start)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05)
        self.order = torch.Generator().manual_seed(seed + 1)
        self.noise = torch.Generator().manual_seed(seed + 2)
        self.step = 0
        self.inputs = torch.randn(40, 6, generator=start)
        self.targets = (self.inputs[:, 0] * self.inputs[:, 1] > 0).long()

    def advance(self, num_steps: int) -> None:
        """Make ``num_steps`` updates."""
        for _ in range(num_steps):
            rows = torch.randint(len(self.inputs), (8,), generator=self.order)
            inputs = self.inputs[rows] + 0.3 * torch.randn(8, 6, generator=self.noise)
            loss = nn.functional.cross_entropy(self.model(inputs), self.targets[rows])
            self.optimizer.param_groups[0]["lr"] = 0.05 / (1 + 0.1 * self.step)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.step += 1

    def numbers(self) -> Tensor:
        """Return all parameters and buffers as one vector."""
        return torch.cat([value.flatten().double() for value in self.model.state_dict().values()])


def check_resume(capture: Callable[[TrainingRun], Any], restore: Callable[[TrainingRun, Any], object]) -> Verdict:
    """Check how a reader saves and resumes a run: killed at random steps it must continue bit for bit.

    Args:
        capture: takes a run and returns its state; the run then goes on, which must not change the state.
        restore: takes a fresh run and such a state.

    Returns:
        A verdict that says what the first difference looks like.
    """
    kills = torch.randint(1, 15, (6,), generator=torch.Generator().manual_seed(3)).tolist()
    for seed, kill in enumerate(kills):
        whole = TrainingRun(seed)
        whole.advance(kill)
        state = capture(whole)
        at_kill = whole.numbers()
        whole.advance(1)
        resumed = TrainingRun(seed)
        restore(resumed, state)
        if not torch.equal(resumed.numbers(), at_kill):
            return Verdict(
                False,
                f"Killed after step {kill}, your run has other weights or buffers than when it was captured"
                + (": they are those of a later step." if torch.equal(resumed.numbers(), whole.numbers()) else "."),
            )
        resumed.advance(1)
        if not torch.equal(resumed.numbers(), whole.numbers()):
            return Verdict(
                False, f"Killed after step {kill}, your run differs after one more step: {_missing(resumed, whole)}."
            )
        whole.advance(7)
        resumed.advance(7)
        if not torch.equal(resumed.numbers(), whole.numbers()):
            return Verdict(False, f"Killed after step {kill}, your run agrees for one step and differs after eight.")
    return Verdict(True, f"Your run was killed {len(kills)} times and no bit differs.")


def _missing(resumed: TrainingRun, whole: TrainingRun) -> str:
    if resumed.step != whole.step:
        return "the step, and with it the learning rate, is another"
    if not torch.equal(resumed.order.get_state(), whole.order.get_state()):
        return "it sees other batches"
    if not torch.equal(resumed.noise.get_state(), whole.noise.get_state()):
        return "it draws other noise"
    return "the optimizer does not remember its moments"
