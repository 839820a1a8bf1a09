"""The time of one optimizer step: torch's three paths, and our classes against the best package, paired, one thread.

    python benchmarks/optimizers.py

Two sets of parameters: a hundred tensors of mixed shapes, and a small transformer. Every way to step has parameters
and gradients of its own, and takes turns with the others. Before they are timed, all ways must move their parameters
alike. A comparison whose control fails is made again, at most four times. Exit status 1 if a bar is missed.

The rules for matrices run on the sixteen matrices in the blocks of that transformer. Muon in bfloat16 needs at most
0.85 times the step of torch's. Shampoo and SOAP correct their coordinates at every tenth step, and ten steps are timed
as one, so that each measurement has one of the dear ones.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytorch_optimizer
import schedulefree
import torch
from _table import keep
from torch import Tensor

from nnopt.measurement import Comparison, compare
from nnopt.models import transformer
from nnopt.optimizers import SOAP, Lion, Muon, ScheduleFreeAdamW, Shampoo, SharpnessAware, flat

Make = Callable[..., Any]

BAR = 0.9
SHAPES = [(64, 64), (64,), (128, 32), (32,), (16, 16, 3, 3), (10,), (256,), (96, 96), (), (48, 32)]


def hundred_tensors() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPES[i % len(SHAPES)], generator=generator).requires_grad_() for i in range(100)]


def of_a_transformer() -> list[Tensor]:
    return list(transformer(128, 4, generator=torch.Generator().manual_seed(0)).parameters())


SIZES: dict[str, Callable[[], list[Tensor]]] = {
    "100 tensors": hundred_tensors,
    "transformer, 4 layers of width 128": of_a_transformer,
}
TORCH: dict[str, Make] = {
    "SGD, momentum": partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
    "Adam": partial(torch.optim.Adam, lr=1e-3),
    "AdamW": partial(torch.optim.AdamW, lr=1e-3),
}


def in_training(params: list[Tensor], **options: float) -> torch.optim.Optimizer:
    """Make the package's schedule-free AdamW, which steps only after ``train()``."""
    optimizer: Any = schedulefree.AdamWScheduleFree(params, **options)
    optimizer.train()
    made: torch.optim.Optimizer = optimizer
    return made


@dataclass
class WithClosure:
    """An optimizer that asks twice for gradients, which are always the same here: what is timed is the rest."""

    optimizer: Any
    parameters: list[Tensor]

    def __post_init__(self) -> None:
        self.gradients = [parameter.grad for parameter in self.parameters]

    def closure(self) -> float:
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return 0.0

    def step(self) -> None:
        self.optimizer.step(self.closure)


def published_sam(params: list[Tensor], **options: Any) -> WithClosure:
    return WithClosure(pytorch_optimizer.SAM(params, torch.optim.SGD, rho=0.05, lr=1e-3, **options), params)


def our_sam(params: list[Tensor]) -> WithClosure:
    return WithClosure(SharpnessAware(torch.optim.SGD(params, lr=1e-3, foreach=True), radius=0.05), params)


def in_one_buffer(params: list[Tensor]) -> torch.optim.Optimizer:
    return flat(torch.optim.AdamW(params, lr=1e-3, fused=True))


# rule -> the package, its class and ours, at equal settings
OURS: dict[str, tuple[str, Make, Make]] = {
    "Lion": (
        "pytorch_optimizer",
        partial(pytorch_optimizer.Lion, lr=1e-4, weight_decay=0.0),
        partial(Lion, lr=1e-4, weight_decay=0.0),
    ),
    "Lion, decay": (
        "pytorch_optimizer",
        partial(pytorch_optimizer.Lion, lr=1e-4, weight_decay=0.1),
        partial(Lion, lr=1e-4, weight_decay=0.1),
    ),
    "schedule-free AdamW": (
        "schedulefree",
        partial(in_training, lr=1e-3, weight_decay=0.0),
        partial(ScheduleFreeAdamW, lr=1e-3, weight_decay=0.0),
    ),
    "schedule-free AdamW, decay": (
        "schedulefree",
        partial(in_training, lr=1e-3, weight_decay=0.1),
        partial(ScheduleFreeAdamW, lr=1e-3, weight_decay=0.1),
    ),
    "SAM, two given gradients": (
        "pytorch_optimizer",
        partial(published_sam, foreach=True),
        our_sam,
    ),
    "AdamW in one buffer": (
        "torch, fused",
        partial(torch.optim.AdamW, lr=1e-3, fused=True),
        in_one_buffer,
    ),
}
# where it is another than BAR; many small tensors are what one buffer is for
BARS = {("AdamW in one buffer", "100 tensors"): 0.5, ("AdamW in one buffer", "transformer, 4 layers of width 128"): 1.0}


# rule -> the reference, ours at equal settings, the bar, how many steps are timed as one
OF_MATRICES: dict[str, tuple[dict[str, Make], float, int]] = {
    "Muon": (
        {
            "torch, bfloat16": partial(torch.optim.Muon, lr=1e-3),
            "nnopt, bfloat16": partial(Muon, lr=1e-3),
            "nnopt, float32": partial(Muon, lr=1e-3, dtype=torch.float32),
        },
        0.85,
        1,
    ),
    "Shampoo": (
        {
            "pytorch_optimizer": partial(pytorch_optimizer.Shampoo, lr=1e-3, preconditioning_compute_steps=10),
            "nnopt": partial(Shampoo, lr=1e-3),
        },
        BAR,
        10,
    ),
    "SOAP": (
        {
            "pytorch_optimizer": partial(pytorch_optimizer.SOAP, lr=1e-3, weight_decay=0.0),
            "nnopt": partial(SOAP, lr=1e-3, weight_decay=0.0),
        },
        1.1,  # its time is products, which both take: not slower is what can be asked
        10,
    ),
}


def matrices_of_a_transformer() -> list[Tensor]:
    model = transformer(128, 4, generator=torch.Generator().manual_seed(0))
    return [parameter for parameter in model.blocks.parameters() if parameter.ndim == 2]


def ways_of_matrices(rule: str) -> dict[str, Callable[[], object]]:
    """Return the steps, after the ways have moved square matrices alike.

    Alike is within a tenth of the way: bfloat16 rounds, and roots of small eigenvalues do. Only the square ones,
    since on the long side of the others eigenvectors are free to turn.
    """
    makers, _, at_once = OF_MATRICES[rule]
    ways: dict[str, Callable[[], object]] = {}
    ends: dict[str, list[Tensor]] = {}
    starts = [parameter.detach() for parameter in matrices_of_a_transformer()]
    for name, make in makers.items():
        parameters = with_gradients("", matrices_of_a_transformer)
        optimizer = make(parameters)
        options = {}
        if rule == "Shampoo":  # with a root at every step both take the same ones
            options["precondition_every" if name == "nnopt" else "preconditioning_compute_steps"] = 1
        moved = matrices_of_a_transformer()
        first = make(moved, **options)
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            for parameter in moved:  # new ones each time: of a constant one SOAP sees rounding off the diagonal
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            first.step()
        ends[name] = [parameter.detach() for parameter in moved]

        def steps(optimizer: torch.optim.Optimizer = optimizer) -> None:
            for _ in range(at_once):
                optimizer.step()

        ways[name] = steps
    reference = next(iter(ends.values()))
    for name, moved in ends.items():
        for start, one, other in zip(starts, reference, moved, strict=True):
            if start.shape[0] == start.shape[1]:
                off = float((other - one).norm() / (one - start).norm())
                assert off < 0.1, f"{name} takes other steps than the reference: {off:.3f} of the way apart"
    return ways


def rows_of_matrices(rules: list[str]) -> tuple[list[list[str]], list[str], bool]:
    """Return rows of the table, notes, and whether the bars are met."""
    rows, notes, is_met = [], [], True
    count = f"{sum(parameter.numel() for parameter in matrices_of_a_transformer()):,}"
    for rule in rules:
        makers, bar, at_once = OF_MATRICES[rule]
        result, attempts = measured(partial(ways_of_matrices, rule), next(iter(makers)), num_blocks=11)
        for ratio in result.ratios:
            interval = "" if ratio.name == next(iter(makers)) else f"[{ratio.low:.2f}, {ratio.high:.2f}]"
            seconds = f"{ratio.seconds / at_once * 1e6:,.0f}"
            rows.append([ratio.name, rule, count, seconds, f"{ratio.ratio:.2f}", interval])
        ours = result[list(makers)[1]].ratio
        is_met &= ours <= bar
        notes.append(f"{rule}, 16 matrices: bar {bar}, {'met' if ours <= bar else 'missed'} ({ours:.2f}); ")
        notes[-1] += f"control {result.control.ratio:.3f}, {result.status}, measured {attempts} times"
    return rows, notes, is_met


def with_gradients(size: str, make: Callable[[], list[Tensor]] | None = None) -> list[Tensor]:
    parameters = SIZES[size]() if make is None else make()
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters


def ways_of(size: str, makers: dict[str, Make]) -> dict[str, Callable[[], object]]:
    """Return the steps, after three of each have moved their parameters alike."""
    parameters = {name: with_gradients(size) for name in makers}
    optimizers: dict[str, Any] = {name: make(parameters[name]) for name, make in makers.items()}
    for name, optimizer in optimizers.items():
        for _ in range(3):
            optimizer.step()
            for parameter, fresh in zip(parameters[name], with_gradients(size), strict=True):
                assert parameter.grad is not None
                assert fresh.grad is not None
                parameter.grad.copy_(fresh.grad)  # schedulefree writes into it
    first = next(iter(parameters.values()))
    for name, moved in parameters.items():
        for one, other in zip(first, moved, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6, msg=f"{name} takes other steps")
    return {name: optimizer.step for name, optimizer in optimizers.items()}


def measured(
    make_ways: Callable[[], dict[str, Callable[[], object]]], baseline: str, num_blocks: int = 25
) -> tuple[Comparison, int]:
    """Return the first comparison whose control holds, or the last of four, and how many were made."""
    for attempt in range(1, 5):
        result = compare(
            make_ways(),
            baseline=baseline,
            generator=torch.Generator().manual_seed(attempt),
            num_blocks=num_blocks,
            min_block_s=0.02,
            clock=time.thread_time,  # seconds of this thread: what other programs take does not count
        )
        if result.conclusive:
            break
    return result, attempt


def main() -> int:
    torch.set_num_threads(1)
    rows = [["", "rule", "parameters", "µs a step", "ratio", "95 % interval"]]
    notes = []
    is_met = True
    for size in SIZES:
        count = f"{sum(parameter.numel() for parameter in SIZES[size]()):,}"
        cases: dict[str, dict[str, Make]] = {
            rule: {
                "torch, default": make,
                "torch, foreach": partial(make, foreach=True),
                "torch, fused": partial(make, fused=True),
            }
            for rule, make in TORCH.items()
        }
        cases |= {rule: {package: theirs, "nnopt": ours} for rule, (package, theirs, ours) in OURS.items()}
        for rule, makers in cases.items():
            base = next(iter(makers))
            result, attempts = measured(partial(ways_of, size, makers), base)
            for ratio in result.ratios:
                interval = "" if ratio.name == base else f"[{ratio.low:.2f}, {ratio.high:.2f}]"
                rows.append([ratio.name, rule, count, f"{ratio.seconds * 1e6:,.0f}", f"{ratio.ratio:.2f}", interval])
            if rule in OURS:
                bar = BARS.get((rule, size), BAR)
                is_met &= result["nnopt"].ratio <= bar
                verdict = "met" if result["nnopt"].ratio <= bar else "missed"
                notes.append(f"{rule}, {size}: bar {bar}, {verdict} ({result['nnopt'].ratio:.2f}); ")
                notes[-1] += f"control {result.control.ratio:.3f}, {result.status}, measured {attempts} times"
    more = rows_of_matrices(list(OF_MATRICES))
    rows, notes, is_met = rows + more[0], notes + more[1], is_met and more[2]
    keep(
        "optimizers",
        "One optimizer step on 100 tensors and on a small transformer, 25 paired blocks (11 of matrices); CPU seconds",
        rows,
        notes,
    )
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
