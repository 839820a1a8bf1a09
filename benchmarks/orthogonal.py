"""Muon and AdamW on the byte language model, each at its best of four rates: equal steps, seconds, steps to a target.

    python benchmarks/orthogonal.py

Two layers of width 64, context 64, 16 windows a step, 200 steps with 20 of warm-up and linear decay in the second half,
on Python's standard library. Rates are tuned on five seeds of their own by validation loss; five others report on the
test part. Seconds are CPU seconds of one thread for whole runs, Muon in float32. Muon leaves embeddings, positions, the
head and all vectors to AdamW at a rate of 0.006; a control gives AdamW that same rate there and another one for the
hidden matrices, so that two rates are no advantage. About ten minutes.
"""

import math
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from _table import keep, listed
from torch import Tensor, nn

from nnopt.data import stdlib_bytes, windows
from nnopt.measurement._intervals import t_interval
from nnopt.models import transformer
from nnopt.optimizers import Muon, linear, muon_groups
from nnopt.seeding import Seed, seeds
from nnopt.training import fit

NUM_STEPS, BATCH, CONTEXT = 200, 16, 64
RATES = {
    "AdamW": [0.00038, 0.00075, 0.0015, 0.003],
    "AdamW, two rates": [0.00038, 0.00075, 0.0015, 0.003],
    "Muon": [0.01, 0.02, 0.04, 0.08],
}


def optimizer_of(name: str, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    if name == "AdamW":
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0, fused=True)
    groups = muon_groups(model, lr=lr, fallback_lr=0.006, fallback=["positions", "head"], weight_decay=0.0)
    if name == "AdamW, two rates":
        groups[0]["fallback"] = "all"
    return Muon(groups, dtype=torch.float32)


def schedule(total_steps: int) -> Callable[[int], float]:
    decay = linear(total_steps=total_steps // 2)
    return lambda step: min(1.0, (step + 1) / 20) * decay(max(0, step - total_steps // 2))


def shifted(multiplier: Callable[[int], float], by: int, step: int) -> float:
    return multiplier(by + step)


def loss_fn(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@torch.no_grad()
def bits(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    return float(loss_fn(model(inputs), targets)) / math.log(2)


def train(
    name: str, lr: float, seed: Seed, parts: dict[str, Tensor], part: str, num_steps: int = NUM_STEPS
) -> tuple[list[float], float]:
    """Return bits per byte after every tenth step, and the CPU seconds of the steps alone."""
    model = transformer(64, 2, generator=seed.generator("initialization"), context=CONTEXT)
    inputs, targets = windows(parts["train"], length=CONTEXT)
    generator = seed.generator("batches")
    held = [rows[::29][:256] for rows in windows(parts[part], length=CONTEXT)]
    chosen = torch.randint(len(inputs), (num_steps, BATCH), generator=generator)
    curve: list[float] = []
    spent = 0.0
    optimizer = optimizer_of(name, model, lr)
    rates = schedule(num_steps)
    batches = [(inputs[rows], targets[rows]) for rows in chosen]
    for first in range(0, num_steps, 10):
        start = time.thread_time()
        fit(
            model,
            optimizer,
            loss_fn,
            batches[first : first + 10],
            total_steps=10,
            schedule=partial(shifted, rates, first),
        )
        spent += time.thread_time() - start
        curve.append(bits(model, *held))
    return curve, spent


def main() -> int:
    torch.set_num_threads(1)
    corpus = stdlib_bytes()
    parts = {"train": corpus.train, "validation": corpus.validation, "test": corpus.test}
    tuning = seeds("benchmark#lm", 5, stream="tune")
    best: dict[str, float] = {}
    notes = [f"corpus {corpus.digest[:12]}; tuning, five seeds, bits on validation files (<chosen>):"]
    for name, rates in RATES.items():
        scores = [
            sum(train(name, lr, seed, parts, "validation")[0][-1] for seed in tuning) / len(tuning) for lr in rates
        ]
        place = scores.index(min(scores))
        best[name] = rates[place]
        notes.append(f"{name}: {listed(rates, scores, place, digits=3)}")
    rows = [["", "steps", "bits per byte", "minus AdamW, 95 %", "CPU s", "AdamW's loss after"]]
    drawn = seeds("benchmark#lm", 5)
    found = {
        (name, num_steps): [train(name, best[name], seed, parts, "test", num_steps) for seed in drawn]
        for name, num_steps in (*((name, NUM_STEPS) for name in RATES), ("AdamW", NUM_STEPS * 3 // 2))
    }
    goals = [curve[-1] for curve, _ in found["AdamW", NUM_STEPS]]
    for (name, num_steps), runs in found.items():
        ends = torch.tensor([curve[-1] for curve, _ in runs])
        less = t_interval((ends - torch.tensor(goals)).tolist())
        reached = [
            next((10 * (i + 1) for i, value in enumerate(curve) if value <= goal), None)
            for (curve, _), goal in zip(runs, goals, strict=True)
        ]
        interval = f"{less.mean:+.2f} [{less.low:+.2f}, {less.high:+.2f}]"
        arrived = sorted(count for count in reached if count is not None)
        span = " to ".join(map(str, sorted({*arrived[:1], *arrived[-1:]}))) or "never"
        rows.append(
            [
                name,
                str(num_steps),
                f"{float(ends.mean()):.3f}",
                "" if less.sd == 0 else interval,
                f"{sum(seconds for _, seconds in runs) / len(runs):.2f}",
                span + ("" if len(arrived) == len(runs) else f" ({len(arrived)} of {len(runs)})"),
            ]
        )
    keep("orthogonal", "Byte language model, 2 layers of width 64: Muon and AdamW, tuned alike; 5 seeds", rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
