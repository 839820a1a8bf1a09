"""Exercises of the chapter ``data/batches``."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from nnopt.data import batches
from nnopt.types import Batch

from ._verdict import Verdict, judge_test

__all__ = ["Loader", "check_loader_test"]

Loader: TypeAlias = Callable[[Tensor, Tensor, int, torch.Generator], Iterable[Batch]]
"""(inputs, targets, batch size, generator) -> what is iterated over once per epoch."""


def check_loader_test(candidate: Callable[[Loader], object]) -> Verdict:
    """Check a test of loaders: it must accept a right one and refuse six planted wrong ones.

    Args:
        candidate: takes a function (inputs, targets, batch_size, generator) that returns a shuffling loader
            over all rows, and raises AssertionError (or returns False) if the loader is wrong.

    Returns:
        A verdict that names a wrong loader which the test lets pass.
    """
    return judge_test(candidate, _right, WRONG_LOADERS)


def _right(inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator) -> Iterable[Batch]:
    return batches(inputs, targets, batch_size=batch_size, generator=generator)


class _Drawn:
    """A loader whose epochs take the rows that a function draws, for inputs and for targets."""

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int,
        draw: Callable[[], tuple[Tensor, Tensor]],
    ) -> None:
        self.inputs, self.targets, self.batch_size, self.draw = inputs, targets, batch_size, draw

    def __iter__(self) -> Iterator[Batch]:
        for first, second in zip(*(rows.split(self.batch_size) for rows in self.draw()), strict=True):
            yield self.inputs[first], self.targets[second]


def _in_file_order(inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator) -> Iterable[Batch]:
    rows = torch.arange(len(inputs))
    return _Drawn(inputs, targets, batch_size, lambda: (rows, rows))


def _one_order(inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator) -> Iterable[Batch]:
    rows = torch.randperm(len(inputs), generator=generator)
    return _Drawn(inputs, targets, batch_size, lambda: (rows, rows))


def _torn_pairs(inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator) -> Iterable[Batch]:
    def draw() -> tuple[Tensor, Tensor]:
        first, second = (torch.randperm(len(inputs), generator=generator) for _ in range(2))
        return first, second

    return _Drawn(inputs, targets, batch_size, draw)


def _replaced(inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator) -> Iterable[Batch]:
    def draw() -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(inputs), (len(inputs),), generator=generator)
        return rows, rows

    return _Drawn(inputs, targets, batch_size, draw)


def _tail_dropped(inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator) -> Iterable[Batch]:
    def draw() -> tuple[Tensor, Tensor]:
        rows = torch.randperm(len(inputs), generator=generator)[: len(inputs) // batch_size * batch_size]
        return rows, rows

    return _Drawn(inputs, targets, batch_size, draw)


def _tail_filled(inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator) -> Iterable[Batch]:
    def draw() -> tuple[Tensor, Tensor]:
        rows = torch.randperm(len(inputs), generator=generator)
        rows = torch.cat([rows, rows[: -len(rows) % batch_size]])
        return rows, rows

    return _Drawn(inputs, targets, batch_size, draw)


WRONG_LOADERS: dict[str, Loader] = {
    "rows in the order of the file": _in_file_order,
    "the same order in every epoch": _one_order,
    "inputs and targets shuffled apart": _torn_pairs,
    "rows drawn with replacement": _replaced,
    "the rows of the last batch left out": _tail_dropped,
    "the last batch filled up with rows seen before": _tail_filled,
}
