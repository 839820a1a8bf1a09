"""Splits that no version of a library can change: the order comes from a hash."""

import hashlib

import torch
from torch import Tensor

__all__ = ["hashed", "stratified"]


def hashed(text: str) -> int:
    """Return 256 bits that no version of a library can change."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def stratified(
    targets: Tensor, num_validation: int, num_test: int, *, split_seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the rows of train, validation and test, each class in proportion, sizes exact.

    Rows of a class are ordered by a hash of seed and row; the row at place k of n gets the rank
    (k + 1/2) / n; the rows of lowest rank over all classes are the test set, the next ones validation.
    """
    hashes = [hashed(f"{split_seed}:{row}") for row in range(len(targets))]
    ranked: list[tuple[float, int, int]] = []
    for label in targets.unique().tolist():
        rows = sorted((targets == label).nonzero().flatten().tolist(), key=hashes.__getitem__)
        ranked += [((place + 0.5) / len(rows), label, row) for place, row in enumerate(rows)]
    order = torch.tensor([row for _, _, row in sorted(ranked)])
    test, validation, train = order.split([num_test, num_validation, len(order) - num_test - num_validation])
    return train.sort().values, validation.sort().values, test.sort().values
