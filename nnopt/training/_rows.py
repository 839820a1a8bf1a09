"""The rows of a sweep: shared by all runs, or one set for each seed; and the order in which a run sees them."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from nnopt.data import batches
from nnopt.seeding import Seed
from nnopt.types import Batch

from ._feed import require_pair

__all__ = ["Rows", "SweepData"]

SweepData: TypeAlias = Batch | Callable[[Seed], Batch]
"""Rows (N, ...) for all runs, or a function of the seed that gives as many rows to each (its own split)."""


class Rows:
    """Inputs and targets, (N, ...) for all seeds or (S, N, ...) with a set for each.

    Args:
        data: a pair, or a function of the seed.
        seeds: S of them.
    """

    def __init__(self, data: SweepData, seeds: Sequence[Seed]) -> None:
        self.per_seed = callable(data)
        if callable(data):
            pairs = [require_pair(data(seed)) for seed in seeds]
            shapes = {(tuple(inputs.shape), tuple(targets.shape)) for inputs, targets in pairs}
            if len(shapes) > 1:
                raise ValueError(f"data must have the same shapes for every seed, got {sorted(shapes)}")
            self.inputs = torch.stack([inputs for inputs, _ in pairs])
            self.targets = torch.stack([targets for _, targets in pairs])
        else:
            self.inputs, self.targets = require_pair(data)
        self.num_rows = self.inputs.shape[1] if self.per_seed else self.inputs.shape[0]

    def of_seed(self, index: int) -> Batch:
        """Return the rows of one seed."""
        return (self.inputs[index], self.targets[index]) if self.per_seed else (self.inputs, self.targets)

    def for_copies(self, values: Tensor, num_settings: int) -> Tensor:
        """Return ``inputs`` or ``targets`` for all copies: (R, N, ...), or shared as they are."""
        return values.repeat(num_settings, *[1] * (values.ndim - 1)) if self.per_seed else values

    def stacked_batches(self, seeds: Sequence[Seed], batch_size: int | None, num_settings: int) -> Iterator[Batch]:
        """Yield (R, B, ...) for ever: every copy its own batch; or all rows, for ``batch_size`` None."""
        if batch_size is None:
            whole = self.for_copies(self.inputs, num_settings), self.for_copies(self.targets, num_settings)
            yield from itertools.repeat(whole)
            return
        num_copies = num_settings * len(seeds)
        inputs, targets = (
            (self.inputs.flatten(0, 1), self.targets.flatten(0, 1)) if self.per_seed else (self.inputs, self.targets)
        )
        shape = (num_copies, batch_size)
        for chosen in self._chosen(seeds, batch_size, num_settings):
            yield (
                inputs.index_select(0, chosen).view(*shape, *inputs.shape[1:]),
                targets.index_select(0, chosen).view(*shape, *targets.shape[1:]),
            )

    def batches_of_seed(self, index: int, seed: Seed, batch_size: int | None) -> Iterator[Batch]:
        """Yield (B, ...) for ever: what :meth:`stacked_batches` gives to the copies of this seed."""
        inputs, targets = self.of_seed(index)
        if batch_size is None:
            yield from itertools.repeat((inputs, targets))
            return
        generator = seed.generator("batches")
        epoch = batches(inputs, targets, batch_size=batch_size, generator=generator, drop_last=True)
        while True:
            yield from epoch

    def _chosen(self, seeds: Sequence[Seed], batch_size: int, num_settings: int) -> Iterator[Tensor]:
        """Yield the places of every copy's rows in one flat tensor, (R * B,); drawn an epoch at a time."""
        numbers = torch.arange(self.num_rows)
        # one batch of all rows is the order of the whole epoch, the same for every batch size
        epochs = [
            batches(numbers, numbers, batch_size=self.num_rows, generator=seed.generator("batches")) for seed in seeds
        ]
        offsets = self.num_rows * torch.arange(len(seeds))[:, None] if self.per_seed else 0
        num_batches = self.num_rows // batch_size
        while True:
            order = torch.stack([next(iter(epoch))[0] for epoch in epochs]) + offsets
            order = order[:, : num_batches * batch_size].view(len(seeds), num_batches, batch_size)
            order = order.transpose(0, 1).repeat(1, num_settings, 1).flatten(1)
            yield from order.to(self.inputs.device)
