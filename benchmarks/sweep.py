"""A sweep of 32 runs of the digits MLP against the same runs one by one: equal curves, paired, one thread.

    python benchmarks/sweep.py

The base is the plain loop of a tutorial (forward, backward, ``optimizer.step()``) with torch's default
optimizer and no hooks; ``nnopt.training.fit`` and ``fused=True`` are shown beside it. The sweep is the general
path, vectorized from any module by torch, with a pure step rule. Exit status 1 if a bar is missed: at least
5 times as fast at batch 32 and 3 times at batch 64.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from _table import keep
from torch import Tensor, nn

from nnopt.data import batches, digits
from nnopt.measurement import Comparison, compare
from nnopt.models import mlp
from nnopt.seeding import Seed, seeds
from nnopt.training import fit, grid, sweep

NUM_STEPS, LRS = 80, (0.03, 0.06, 0.12, 0.24)
SEEDS = seeds("benchmarks/sweep", 8)
ROWS = digits().train
BARS = {32: 5.0, 64: 3.0}
BASE, STACKED = "one by one", "sweep"


def make_model(generator: torch.Generator) -> nn.Module:
    return mlp((64, 64, 10), generator=generator)


def sgd_step(parameter: Tensor, gradient: Tensor, *, lr: float | Tensor) -> Tensor:
    return parameter - lr * gradient


def momentum_step(parameter: Tensor, gradient: Tensor, buffer: Tensor, *, lr: float | Tensor) -> tuple[Tensor, Tensor]:
    buffer = 0.9 * buffer + gradient
    return parameter - lr * buffer, buffer


def adam_step(
    parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, *, step: int, lr: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    first = torch.lerp(first, gradient, 0.1)
    second = torch.lerp(second, gradient * gradient, 0.001)
    scale = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
    return parameter - (lr / (1 - 0.9**step)) * first / scale, first, second


CASES: dict[str, tuple[Callable[..., Any], Callable[..., torch.optim.Optimizer], float]] = {
    "SGD": (sgd_step, torch.optim.SGD, 1.0),
    "momentum .9": (momentum_step, lambda p, lr, **o: torch.optim.SGD(p, lr=lr, momentum=0.9, **o), 0.1),
    "Adam": (adam_step, torch.optim.Adam, 0.03),
}


def run_of(lr: float, seed: Seed, batch_size: int) -> tuple[nn.Module, Any]:
    order = seed.generator("batches")
    loader = batches(*ROWS, batch_size=batch_size, generator=order, drop_last=True)
    return make_model(seed.generator("initialization")), loader


def plain_loop(model: nn.Module, optimizer: torch.optim.Optimizer, loader: Any) -> list[float]:
    losses: list[float] = []
    while True:
        for inputs, targets in loader:
            loss = F.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == NUM_STEPS:
                return losses


def arms(case: str, batch_size: int) -> dict[str, Callable[[], list[list[float]]]]:
    """Return the ways to train the 32 runs; each returns their loss curves."""
    rule, factory, scale = CASES[case]
    lrs = [scale * lr for lr in LRS]

    def one_by_one(fused: bool) -> list[list[float]]:
        curves = []
        for lr in lrs:
            for seed in SEEDS:
                model, loader = run_of(lr, seed, batch_size)
                options = {"fused": True} if fused else {}
                curves.append(plain_loop(model, factory(model.parameters(), lr=lr, **options), loader))
        return curves

    def fitted() -> list[list[float]]:
        curves = []
        for lr in lrs:
            for seed in SEEDS:
                model, loader = run_of(lr, seed, batch_size)
                optimizer = factory(model.parameters(), lr=lr)
                curves.append(fit(model, optimizer, F.cross_entropy, loader, total_steps=NUM_STEPS).losses)
        return curves

    def stacked() -> list[list[float]]:
        result = sweep(
            make_model,
            rule,
            F.cross_entropy,
            ROWS,
            settings=grid(lr=lrs),
            seeds=SEEDS,
            total_steps=NUM_STEPS,
            batch_size=batch_size,
        )
        curves: list[list[float]] = result.losses.flatten(0, 1).tolist()
        return curves

    return {
        BASE: lambda: one_by_one(False),
        "one by one, fused": lambda: one_by_one(True),
        "one by one, fit": fitted,
        STACKED: stacked,
    }


def require_equal(ways: dict[str, Callable[[], list[list[float]]]]) -> None:
    curves = {name: torch.tensor(way()) for name, way in ways.items()}
    for name, curve in curves.items():
        torch.testing.assert_close(curve, curves[BASE], rtol=1e-3, atol=1e-3, msg=f"{name} trains other runs")


def measured(case: str, batch_size: int) -> Comparison:
    ways = arms(case, batch_size)
    require_equal(ways)
    return compare(
        ways,
        baseline=BASE,
        generator=torch.Generator().manual_seed(0),
        num_blocks=7,
        num_warmup=1,
        min_block_s=0.001,
        clock=time.thread_time,  # seconds of this thread: what other programs take does not count
    )


def main() -> int:
    torch.set_num_threads(1)
    rows = [["", "optimizer", "batch", "CPU s for 32 runs", "times as fast", "95 % interval"]]
    notes = []
    is_met = True
    for batch_size, bar in BARS.items():
        for case in CASES:
            result = measured(case, batch_size)
            for ratio in result.ratios:
                interval = f"[{1 / ratio.high:.2f}, {1 / ratio.low:.2f}]"
                shown = "" if ratio.name == BASE else interval
                rows.append(
                    [ratio.name, case, str(batch_size), f"{ratio.seconds:.2f}", f"{1 / ratio.ratio:.2f}", shown]
                )
            speed = 1 / result[STACKED].ratio
            is_met &= speed >= bar
            notes.append(
                f"{case}, batch {batch_size}: bar {bar:g} times, {'met' if speed >= bar else 'missed'} "
                f"({speed:.2f}); against fit {result['one by one, fit'].ratio * speed:.2f}; "
                f"control {result.control.ratio:.3f}, {result.status}"
            )
    keep(
        "sweep",
        f"32 runs (4 learning rates x 8 seeds) of the digits MLP 64-64-10, {NUM_STEPS} steps, 7 paired blocks; "
        "equal loss curves",
        rows,
        notes,
    )
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
