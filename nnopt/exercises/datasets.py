"""Exercises of the chapter ``data/datasets``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ._verdict import Verdict

__all__ = ["check_split"]

Split: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _Case:
    name: str
    inputs: Tensor
    targets: Tensor
    groups: Tensor


def check_split(candidate: Split) -> Verdict:
    """Check a function that splits data whose rows belong together.

    Args:
        candidate: takes inputs (N, D), targets (N,) and groups (N,), one integer for every source of rows
            (a writer, a patient), and returns the rows of train and of test, int64. Every row is in exactly
            one part, test has between a tenth and a half of them, every class is in both, and neither a
            group nor an image that occurs twice is on both sides.

    Returns:
        A verdict; the hidden sets are sorted by class, have copies of one image in two groups, and groups
        that hold only some of the classes.
    """
    for case in _cases():
        kept = [t.clone() for t in (case.inputs, case.targets, case.groups)]
        answer = candidate(case.inputs, case.targets, case.groups)
        if not all(torch.equal(a, b) for a, b in zip((case.inputs, case.targets, case.groups), kept, strict=True)):
            return Verdict(False, "Your function changes the data that it is given.")
        fault = _fault(case, *answer)
        if fault:
            return Verdict(False, f"On {case.name} {fault}.")
    return Verdict(True, "Your split keeps groups and copies together and every class on both sides.")


def _fault(case: _Case, train: Tensor, test: Tensor) -> str | None:
    num_rows = len(case.targets)
    rows = torch.cat([train, test]).sort().values
    if not torch.equal(rows, torch.arange(num_rows)):
        return "your parts do not hold every row exactly once"
    if not num_rows / 10 <= len(test) <= num_rows / 2:
        return f"your test part has {len(test)} of {num_rows} rows"
    for name, values in (("group", case.groups), ("image", _identities(case.inputs))):
        shared = set(values[train].tolist()) & set(values[test].tolist())
        if shared:
            return f"{len(shared)} {name}{'s are' if len(shared) > 1 else ' is'} on both sides"
    classes = set(case.targets.tolist())
    for name, part in (("train", train), ("test", test)):
        missing = classes - set(case.targets[part].tolist())
        if missing:
            return f"your {name} part lacks {len(missing)} of {len(classes)} classes"
    return None


def _identities(inputs: Tensor) -> Tensor:
    identities: Tensor = inputs.flatten(1).unique(dim=0, return_inverse=True)[1]
    return identities


def _cases() -> list[_Case]:
    generator = torch.Generator().manual_seed(23)

    def images(num_rows: int) -> Tensor:
        return torch.rand(num_rows, 6, generator=generator)

    def shuffled(*tensors: Tensor) -> list[Tensor]:
        order = torch.randperm(len(tensors[0]), generator=generator)
        return [t[order] for t in tensors]

    # 15 writers of 12 images, every class by everyone, rows sorted by class
    targets = torch.arange(6).repeat_interleave(30)
    by_class = _Case("a set sorted by class", images(180), targets, torch.arange(180) % 15)
    # rows in the order of the writers, of whom some wrote much more than others
    sizes = torch.tensor([8, 40, 16, 24, 8, 32, 16, 8, 24, 24])
    groups = torch.arange(10).repeat_interleave(sizes)
    unequal = _Case("groups of unequal size", images(200), torch.arange(200) % 4, groups)
    # the same image filed under two writers, three times over
    groups = torch.arange(12).repeat_interleave(15)
    copied, targets = images(180), torch.arange(180) % 5
    for first, second in ((0, 165), (30, 75), (80, 120)):
        copied[second], targets[second] = copied[first], targets[first]
    copies = _Case("a set with copies", *shuffled(copied, targets, groups))
    # two of the classes were written by two writers each, and by nobody else
    groups = torch.arange(12).repeat_interleave(12)
    targets = torch.arange(144) % 4
    for label, writers in ((4, (1, 7)), (5, (2, 10))):
        for writer in writers:
            targets[groups == writer] = label
    rare = _Case("a set with rare classes", *shuffled(images(144), targets, groups))
    return [by_class, unequal, copies, rare]
