"""Splits that no version of a library can change: the order comes from a hash."""

import hashlib

import torch
from torch import Tensor

from nnopt.checks import require_integer, require_type

__all__ = ["hashed", "stratified_split"]


def hashed(text: str) -> int:
    """Return 256 bits that no version of a library can change."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def stratified_split(
    targets: Tensor, *, num_validation: int, num_test: int, split_seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the rows of train, validation and test, each class in proportion, sizes exact.

    Rows of a class are ordered by a hash of seed and row; the row at place k of n gets the rank
    (k + 1/2) / n; the rows of lowest rank over all classes are the test set, the next ones validation.

    Args:
        targets: classes, integers (N,).
        num_validation: rows of the validation part.
        num_test: rows of the test part.
        split_seed: every integer draws another split, the same with every version of every library.

    Returns:
        Three sorted int64 tensors of rows, disjoint, together 0 … N − 1.

    Raises:
        ValueError: the parts are larger than N, a size is negative, or the targets have another shape.
        TypeError: an argument is of another type.

    Convention:
        Rows are taken one by one. Where several rows belong together (a writer, a patient, a copy) this
        puts them on both sides: see the chapter.

    Example:
        >>> train, validation, test = stratified_split(torch.tensor([0, 0, 1, 1]), num_validation=0, num_test=2)
        >>> (test < 2).tolist()
        [True, False]
    """
    require_type("targets", targets, Tensor)
    if targets.ndim != 1 or targets.is_floating_point():
        raise ValueError(f"targets must be integers (N,), got {targets.dtype} {tuple(targets.shape)}")
    require_integer("num_validation", num_validation, minimum=0)
    require_integer("num_test", num_test, minimum=0)
    require_integer("split_seed", split_seed)
    num_train = len(targets) - num_validation - num_test
    if num_train < 0:
        raise ValueError(f"num_validation + num_test must be <= {len(targets)} rows, got {num_validation} + {num_test}")
    hashes = [hashed(f"{split_seed}:{row}") for row in range(len(targets))]
    classes = targets.cpu()
    ranked: list[tuple[float, int, int]] = []
    for label in classes.unique().tolist():
        rows = sorted((classes == label).nonzero().flatten().tolist(), key=hashes.__getitem__)
        ranked += [((place + 0.5) / len(rows), label, row) for place, row in enumerate(rows)]
    order = torch.tensor([row for _, _, row in sorted(ranked)], dtype=torch.int64)
    test, validation, train = order.split([num_test, num_validation, num_train])
    return train.sort().values, validation.sort().values, test.sort().values
