"""Batches of tensors that are already in memory: chapter *Batches*."""

from collections.abc import Iterator

import torch
from torch import Tensor

from nnopt.checks import require_integer, require_non_empty, require_type
from nnopt.types import Batch

__all__ = ["Batches", "batches"]


class Batches:
    """What :func:`batches` returns: every iteration is one epoch, ``len()`` the number of its batches.

    Args:
        inputs: (N, ...).
        targets: (N, ...), on the same device.
        batch_size: rows of a batch.
        generator: draws each epoch's order; None keeps the rows' order.
        drop_last: leave out the rows that do not fill a batch.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        batch_size: int,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> None:
        _require_rows(inputs, targets)
        require_integer("batch_size", batch_size, minimum=1)
        require_type("generator", generator, (torch.Generator, type(None)))
        require_type("drop_last", drop_last, bool)
        if generator is not None and generator.device.type != "cpu":
            raise ValueError(
                f"generator must be on cpu, where every device gets the same order, got {generator.device}"
            )
        if drop_last and batch_size > len(inputs):
            raise ValueError(f"batch_size must be <= {len(inputs)}, the rows, with drop_last, got {batch_size}")
        self.inputs = inputs
        self.targets = targets
        self.batch_size = batch_size
        self.generator = generator
        self.drop_last = drop_last

    def __len__(self) -> int:
        rows = len(self.inputs) if self.drop_last else len(self.inputs) + self.batch_size - 1
        return rows // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        num_rows = len(self.inputs)
        if self.generator is None:
            for start in range(0, len(self) * self.batch_size, self.batch_size):
                stop = min(start + self.batch_size, num_rows)
                yield self.inputs[start:stop], self.targets[start:stop]
            return
        # DataLoader draws a base seed for its workers before the order, and RandomSampler a second order of
        # which it takes nothing; without these draws this epoch or the next ones would differ from theirs
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        order = torch.randperm(num_rows, generator=self.generator).to(self.inputs.device)
        torch.randperm(num_rows, generator=self.generator)
        for rows in order[: len(self) * self.batch_size].split(self.batch_size):
            # index_select copies whole rows; indexing with brackets is several times slower
            yield self.inputs.index_select(0, rows), self.targets.index_select(0, rows)


def batches(
    inputs: Tensor,
    targets: Tensor,
    *,
    batch_size: int,
    generator: torch.Generator | None = None,
    drop_last: bool = False,
) -> Batches:
    """Serve two tensors in batches, on the device where they lie.

    An epoch's order is π = randperm(N) and batch b is rows π[bB : (b+1)B]: bit for bit, epoch after epoch,
    the batches of ``DataLoader(TensorDataset(inputs, targets), batch_size=…, shuffle=True, generator=…)``.

    Args:
        inputs: (N, ...), any dtype; keep images as uint8 and convert the batch.
        targets: (N, ...), on the same device.
        batch_size: rows of a batch, B.
        generator: on the CPU; every epoch draws a new order from it, all at the first batch, so its state
            before the epoch is all that a checkpoint needs. None serves the rows in order, as views.
        drop_last: leave out the last N mod B rows of each epoch's order.

    Returns:
        An object to iterate over as often as you like, once per epoch.

    Raises:
        ValueError: the tensors are empty, of different lengths or on different devices, the generator is
            not on the CPU, or with ``drop_last`` no batch is full.
        TypeError: an argument is of another type.

    Convention:
        The batches of one epoch differ in size when N mod B ≠ 0: the mean of the batch means is then not
        the mean over the rows.

    Example:
        >>> loader = batches(torch.arange(5), torch.arange(5), batch_size=2)
        >>> [inputs.tolist() for inputs, _ in loader]
        [[0, 1], [2, 3], [4]]
    """
    return Batches(inputs, targets, batch_size=batch_size, generator=generator, drop_last=drop_last)


def _require_rows(inputs: Tensor, targets: Tensor) -> None:
    for name, value in (("inputs", inputs), ("targets", targets)):
        require_type(name, value, Tensor)
        if value.ndim == 0:
            raise ValueError(f"{name} must have rows, got a single number")
        require_non_empty(name, value)
    if len(inputs) != len(targets):
        raise ValueError(f"inputs and targets must have as many rows, got {len(inputs)} and {len(targets)}")
    if inputs.device != targets.device:
        raise ValueError(f"inputs and targets must be on one device, got {inputs.device} and {targets.device}")
