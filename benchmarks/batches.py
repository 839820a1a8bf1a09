"""An epoch of nnopt's tensor loader against DataLoader(TensorDataset): equal batches, paired, one thread.

    python benchmarks/batches.py

Exit status 1 if a bar is missed: at least 10 times as fast for uint8, 6 times for float32.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable

import torch
from _table import keep
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from nnopt.data import batches
from nnopt.measurement import Comparison, compare

NUM_IMAGES, BATCH_SIZE = 60_000, 128
BARS = {torch.uint8: 10.0, torch.float32: 6.0}


def loaders(dtype: torch.dtype) -> tuple[Iterable[list[Tensor]], Iterable[tuple[Tensor, Tensor]]]:
    """Return torch's loader and ours over the same images, with equal generators."""
    images = torch.randint(
        0, 256, (NUM_IMAGES, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    ).to(dtype)
    labels = torch.arange(NUM_IMAGES) % 10
    first, second = (torch.Generator().manual_seed(1) for _ in range(2))
    theirs: DataLoader[tuple[Tensor, ...]] = DataLoader(
        TensorDataset(images, labels), batch_size=BATCH_SIZE, shuffle=True, generator=first
    )
    return theirs, batches(images, labels, batch_size=BATCH_SIZE, generator=second)


def require_equal(dtype: torch.dtype) -> None:
    theirs, ours = loaders(dtype)
    for _ in range(2):
        for expected, batch in zip(theirs, ours, strict=True):
            if not all(torch.equal(a, b) for a, b in zip(expected, batch, strict=True)):
                raise AssertionError(f"the loaders serve different batches of {dtype}")


def epoch(loader: Iterable[object]) -> Callable[[], None]:
    def run() -> None:
        deque(loader, maxlen=0)

    return run


def measured(dtype: torch.dtype) -> Comparison:
    theirs, ours = loaders(dtype)
    return compare(
        {"DataLoader(TensorDataset)": epoch(theirs), "nnopt.data.batches": epoch(ours)},
        baseline="DataLoader(TensorDataset)",
        generator=torch.Generator().manual_seed(2),
        num_blocks=12,
    )


def main() -> int:
    torch.set_num_threads(1)
    rows = [["", "dtype", "seconds per epoch", "times as fast", "95 % interval"]]
    notes = []
    is_met = True
    for dtype, bar in BARS.items():
        require_equal(dtype)
        result = measured(dtype)
        for ratio in result.ratios:
            rows.append(
                [
                    ratio.name,
                    str(dtype).removeprefix("torch."),
                    f"{ratio.seconds:.4f}",
                    f"{1 / ratio.ratio:.1f}",
                    "" if ratio.name == result.baseline else f"[{1 / ratio.high:.1f}, {1 / ratio.low:.1f}]",
                ]
            )
        speed = 1 / result["nnopt.data.batches"].ratio
        is_met &= speed >= bar
        notes.append(
            f"{dtype}: bar {bar:g} times, {'met' if speed >= bar else 'missed'}; "
            f"control {result.control.ratio:.3f}, {result.status}; batches of two epochs are equal bit for bit"
        )
    keep(
        "batches",
        f"One shuffled epoch of {NUM_IMAGES:,} images of 28x28 with labels, batch {BATCH_SIZE}, 12 paired blocks",
        rows,
        notes,
    )
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
