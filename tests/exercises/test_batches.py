"""The checker accepts a complete test of loaders and names what an incomplete one lets pass."""

from collections.abc import Callable

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from nnopt import exercises
from nnopt.exercises import Loader
from nnopt.exercises.batches import WRONG_LOADERS


def epochs(loader: Loader) -> tuple[list[int], list[int], bool]:
    inputs = torch.arange(23.0).view(23, 1)
    made = loader(inputs, torch.arange(23), 5, torch.Generator().manual_seed(0))
    orders = []
    together = True
    for _ in range(2):
        pairs = [(a, b) for a, b in made]
        together &= all(torch.equal(a[:, 0].long(), b) for a, b in pairs)
        orders.append(torch.cat([b for _, b in pairs]).tolist())
    return orders[0], orders[1], together


def complete(loader: Loader) -> None:
    first, second, together = epochs(loader)
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second
    assert together


def test_a_complete_test_passes() -> None:
    assert exercises.check_loader_test(complete)


def rows_only(loader: Loader) -> bool:
    return sorted(epochs(loader)[0]) == list(range(23))


def new_orders_only(loader: Loader) -> bool:
    first, second, together = epochs(loader)
    return first != second and together


def no_pairs(loader: Loader) -> bool:
    first, second, _ = epochs(loader)
    return rows_only(loader) and first != second


def no_doubles(loader: Loader) -> bool:
    first, second, together = epochs(loader)
    return set(first) == set(range(23)) and first != second and together


def no_new_order(loader: Loader) -> bool:
    first, _, together = epochs(loader)
    return rows_only(loader) and together and first != sorted(first)


@pytest.mark.parametrize(
    ("candidate", "let_pass"),
    [
        (lambda loader: True, "rows in the order of the file"),
        (rows_only, "rows in the order of the file"),
        (new_orders_only, "rows drawn with replacement"),
        (no_pairs, "inputs and targets shuffled apart"),
        (no_doubles, "the last batch filled up"),
        (no_new_order, "the same order in every epoch"),
    ],
)
def test_an_incomplete_test_is_told_what_it_lets_pass(candidate: Callable[[Loader], object], let_pass: str) -> None:
    verdict = exercises.check_loader_test(candidate)
    assert not verdict
    assert let_pass in verdict.sentence


def test_a_test_that_refuses_everything_is_refused() -> None:
    assert "refuses a correct" in exercises.check_loader_test(lambda loader: False).sentence


def test_torchs_loader_is_right_and_every_planted_one_wrong() -> None:
    def theirs(inputs: torch.Tensor, targets: torch.Tensor, batch_size: int, generator: torch.Generator) -> object:
        return DataLoader(TensorDataset(inputs, targets), batch_size, shuffle=True, generator=generator)

    complete(theirs)  # type: ignore[arg-type]
    for loader in WRONG_LOADERS.values():
        with pytest.raises(AssertionError):
            complete(loader)
