"""The checker accepts a split that keeps together what belongs together, and refuses the planted wrong ones."""

import pytest
import torch
from torch import Tensor

from nnopt import exercises
from nnopt.data import stratified_split

Parts = tuple[Tensor, Tensor]


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def parts(in_test: Tensor) -> Parts:
    return (~in_test).nonzero().flatten(), in_test.nonzero().flatten()


def linked(inputs: Tensor, groups: Tensor) -> Tensor:
    """Return groups in which those that share an image are one."""
    units = groups.clone()
    same = inputs.flatten(1).unique(dim=0, return_inverse=True)[1]
    for image in same.unique():
        touched = units[same == image].unique()
        units[torch.isin(units, touched)] = touched[0]
    return units


def by_units(units: Tensor, targets: Tensor, *, all_classes: bool = True, seed: int = 0) -> Parts:
    generator = seeded(seed)
    names = units.unique()
    for _ in range(1000):
        chosen = names[torch.randperm(len(names), generator=generator)][: len(names) // 4]
        in_test = torch.isin(units, chosen)
        sides = [set(targets[side].tolist()) == set(targets.tolist()) for side in (in_test, ~in_test)]
        fits = 0.1 <= in_test.double().mean() <= 0.5
        if not all_classes or (all(sides) and fits):
            return parts(in_test)
    raise AssertionError("no split found")


def right(inputs: Tensor, targets: Tensor, groups: Tensor) -> Parts:
    return by_units(linked(inputs, groups), targets)


def last_rows(inputs: Tensor, targets: Tensor, groups: Tensor) -> Parts:
    return parts(torch.arange(len(targets)) >= 0.8 * len(targets))


def random_rows(inputs: Tensor, targets: Tensor, groups: Tensor) -> Parts:
    return parts(torch.rand(len(targets), generator=seeded()) < 0.25)


def stratified_rows(inputs: Tensor, targets: Tensor, groups: Tensor) -> Parts:
    train, _, test = stratified_split(targets, num_validation=0, num_test=len(targets) // 4)
    return train, test


def groups_only(inputs: Tensor, targets: Tensor, groups: Tensor) -> Parts:
    return by_units(groups, targets)


def classes_forgotten(inputs: Tensor, targets: Tensor, groups: Tensor) -> Parts:
    return by_units(linked(inputs, groups), targets, all_classes=False)


def rows_dropped(inputs: Tensor, targets: Tensor, groups: Tensor) -> Parts:
    train, test = right(inputs, targets, groups)
    return train[1:], test


def rows_doubled(inputs: Tensor, targets: Tensor, groups: Tensor) -> Parts:
    train, test = right(inputs, targets, groups)
    return torch.cat([train, test[:1]]), test


def one_group(inputs: Tensor, targets: Tensor, groups: Tensor) -> Parts:
    return parts(groups == groups[0])


def scribbler(inputs: Tensor, targets: Tensor, groups: Tensor) -> Parts:
    answer = right(inputs, targets, groups)
    groups.zero_()
    return answer


WRONG = {
    last_rows: "on both sides",
    random_rows: "on both sides",
    stratified_rows: "on both sides",
    groups_only: "On a set with copies",
    classes_forgotten: "On a set with rare classes your test part lacks",
    rows_dropped: "every row exactly once",
    rows_doubled: "every row exactly once",
    one_group: "of 180 rows",
    scribbler: "changes the data",
}


def test_a_right_split_passes_whatever_it_draws() -> None:
    assert exercises.check_split(right)
    for seed in range(1, 6):
        assert exercises.check_split(lambda x, y, g, s=seed: by_units(linked(x, g), y, seed=s))  # type: ignore[misc]


@pytest.mark.parametrize("candidate", WRONG, ids=lambda function: function.__name__)
def test_planted_wrong_splits_are_refused_for_their_fault(candidate: object) -> None:
    assert callable(candidate)
    verdict = exercises.check_split(candidate)
    assert not verdict
    assert WRONG[candidate] in verdict.sentence
