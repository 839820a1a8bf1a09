"""Six optimizers on three tasks with one tuning budget: step times, losses at the budget, speed to AdamW's loss.

Run ``python benchmarks/comparison.py``, about four minutes at one thread.
"""

import functools
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from _table import keep
from torch import Tensor, nn

from nnopt.data import digits, photographs, pixels, stdlib_bytes, windows
from nnopt.models import mlp, transformer
from nnopt.optimizers import (
    SOAP,
    Lion,
    Muon,
    ScheduleFreeAdamW,
    adam_step,
    averaged_weights,
    cosine,
    interquartile_mean,
    lion_step,
    momentum_step,
    muon_groups,
    muon_step,
    schedule_free_adamw_step,
    soap_step,
    steps_to_target,
)
from nnopt.seeding import seeds
from nnopt.training import SweepResult, grid, sweep

Rows = tuple[Tensor, Tensor]
BETAS = (0.9, 0.99)
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
NUM_SEEDS, CONTEXT = 8, 48


def nesterov(p: Tensor, g: Tensor, b: Tensor, *, lr: Any) -> tuple[Tensor, ...]:
    return momentum_step(p, g, b, lr=lr, momentum=0.9, nesterov=True)


def hidden_muon(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, *, step: int, lr: Any, copies: bool = False
) -> tuple[Tensor, ...]:
    """Muon for matrices of hidden layers, AdamW at half of its rate for the rest: bytes, places, outputs, vectors."""
    if p.ndim - copies == 2 and not {3, 10, CONTEXT, 256} & set(p.shape[-2:]):
        return *muon_step(p, g, m, lr=lr, weight_decay=0.0, dtype=None, copies=copies), v
    return adam_step(p, g, m, v, step=step, lr=lr / 2, betas=BETAS)


RULES: dict[str, tuple[Any, dict[str, list[Any]]]] = {
    "AdamW": (adam_step, {"betas": [BETAS]}),
    "Nesterov": (nesterov, {}),
    "Lion": (lion_step, {}),
    "schedule-free": (schedule_free_adamw_step, {"betas": [BETAS]}),
    "Muon": (hidden_muon, {}),
    "SOAP": (soap_step, {"betas": [BETAS], "weight_decay": [0.0]}),
}


@dataclass(frozen=True)
class Task:
    """A model, its rows and what it is judged by; lower is better.

    Args:
        make: generator -> model.
        rows: of train, validation and test.
        loss_fn: trained on.
        metric: reported.
        unit: of the metric.
        batch_size: rows of a step.
        steps: budget.
        centers: method -> middle of its five learning rates.
        fallback: what Muon leaves to AdamW.
    """

    make: Callable[[torch.Generator], nn.Module]
    rows: tuple[Rows, Rows, Rows]
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    metric: Callable[[Tensor, Tensor], Tensor]
    unit: str
    batch_size: int
    steps: int
    centers: dict[str, float]
    fallback: list[str]


def negative_decibels(predictions: Tensor, targets: Tensor) -> Tensor:
    return 10 * (predictions - targets).square().mean().log10()


def bytes_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())


def bits(logits: Tensor, targets: Tensor) -> Tensor:
    return bytes_loss(logits, targets) / math.log(2)


def tasks() -> dict[str, Task]:
    image = nn.functional.interpolate(photographs()["china"][None], (64, 96), mode="area")[0]
    waves = 4 * torch.randn(2, 32, generator=seeds("benchmark#waves", 1)[0].generator("noise"))

    def features(part: Rows) -> Rows:
        phases = math.pi * part[0] @ waves
        return torch.cat([phases.sin(), phases.cos()], dim=1), part[1]

    def text(part: Tensor, every: int) -> Rows:
        inputs, targets = windows(part, length=CONTEXT)
        return inputs[::every], targets[::every]

    splits, numbers, corpus = pixels(image), digits(), stdlib_bytes()
    cross_entropy = nn.functional.cross_entropy
    return {
        "digits": Task(
            lambda generator: mlp((64, 64, 64, 10), generator=generator),
            (numbers.train, numbers.validation, numbers.test),
            cross_entropy,
            cross_entropy,
            "nats",
            32,
            150,
            {"AdamW": 0.02, "Nesterov": 0.15, "Lion": 0.006, "schedule-free": 0.02, "Muon": 0.04, "SOAP": 0.03},
            ["5"],
        ),
        "photograph": Task(
            lambda generator: mlp((64, 64, 64, 64, 3), generator=generator),
            (features(splits.train), features(splits.validation), features(splits.test)),
            nn.functional.mse_loss,
            negative_decibels,
            "-dB",
            256,
            120,
            {"AdamW": 0.01, "Nesterov": 0.5, "Lion": 0.006, "schedule-free": 0.02, "Muon": 0.06, "SOAP": 0.02},
            ["7"],
        ),
        "language": Task(
            lambda generator: transformer(32, 2, generator=generator, context=CONTEXT),
            (text(corpus.train, 20), text(corpus.validation, 200), text(corpus.test, 200)),
            bytes_loss,
            bits,
            "bits",
            8,
            120,
            {"AdamW": 0.008, "Nesterov": 0.3, "Lion": 0.003, "schedule-free": 0.015, "Muon": 0.06, "SOAP": 0.01},
            ["positions", "head"],
        ),
    }


def train(task: Task, name: str, lrs: list[float], stream: str, num_seeds: int, *, follow: bool = False) -> SweepResult:
    rule, options = RULES[name]
    free = name == "schedule-free"
    drawn = seeds("benchmark#comparison", num_seeds, stream=stream)
    every = max(1, len(task.rows[2][0]) // 256)
    test = task.rows[2][0][::every], task.rows[2][1][::every]
    return sweep(
        task.make,
        rule,
        task.loss_fn,
        task.rows[0],
        settings=grid(lr=lrs, **options),
        seeds=drawn,
        total_steps=task.steps,
        batch_size=task.batch_size,
        schedule=None if free else cosine(total_steps=task.steps),
        weights_of=averaged_weights if free else None,
        track={"test": (task.metric, test)} if follow else None,
        track_every=5 if follow else None,
    )


def step_times(task: Task) -> dict[str, float]:
    """Return the CPU seconds of a whole training step over AdamW's, medians of blocks taken in turn."""
    batch = task.rows[0][0][: task.batch_size], task.rows[0][1][: task.batch_size]
    steps: dict[str, Callable[[], None]] = {}
    for name in RULES:
        model = task.make(torch.Generator().manual_seed(0))
        steps[name] = functools.partial(whole_step, model, optimizer_of(name, model, task.fallback), task, batch)
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(16):
        for name, step in steps.items():
            start = time.thread_time()
            for _ in range(10):
                step()
            spent[name].append(time.thread_time() - start)
    medians = {name: statistics.median(values[2:]) for name, values in spent.items()}
    return {name: value / medians["AdamW"] for name, value in medians.items()}


def whole_step(model: nn.Module, optimizer: torch.optim.Optimizer, task: Task, batch: Rows) -> None:
    optimizer.zero_grad()
    task.loss_fn(model(batch[0]), batch[1]).backward()
    optimizer.step()


def optimizer_of(name: str, model: nn.Module, fallback: list[str]) -> torch.optim.Optimizer:
    weights = list(model.parameters())
    if name == "AdamW":
        return torch.optim.AdamW(weights, lr=1e-5, fused=True)
    if name == "Nesterov":
        return torch.optim.SGD(weights, lr=1e-5, momentum=0.9, nesterov=True, fused=True)
    if name == "Muon":
        return Muon(muon_groups(model, lr=1e-5, fallback_lr=1e-5, fallback=fallback), dtype=torch.float32)
    makers: dict[str, Any] = {"Lion": Lion, "schedule-free": ScheduleFreeAdamW, "SOAP": SOAP}
    made: torch.optim.Optimizer = makers[name](weights, lr=1e-5)
    return made


def interval(values: Tensor) -> str:
    half = 2.365 * float(values.std()) / len(values) ** 0.5  # Student's t of 8 values
    return f"[{float(values.mean()) - half:+.3f}, {float(values.mean()) + half:+.3f}]"


def main() -> int:
    torch.set_num_threads(1)
    head = ["", "step time", "rate", "steps", "end", "minus AdamW", "95 % interval", "steps to AdamW's end", "speed"]
    rows, notes = [head], []
    speeds: dict[str, list[Tensor]] = {name: [] for name in RULES}
    for title, task in tasks().items():
        ratios = step_times(task)
        goal = torch.zeros(NUM_SEEDS)
        ends: dict[str, Tensor] = {}
        for name in RULES:
            lrs = [factor * task.centers[name] for factor in FACTORS]
            tuned = train(task, name, lrs, "tune", 2)
            scores = tuned.evaluate(task.metric, task.rows[1])
            best = tuned.best(scores, edge="allow")
            listed = ", ".join(f"{lr:g}: {score:.3f}" for lr, score in zip(lrs, scores.mean(dim=1).tolist()))
            notes.append(f"{title}, {name}: {listed}" + (" (at the edge)" if best in (0, len(lrs) - 1) else ""))
            result = train(task, name, [lrs[best]], "report", NUM_SEEDS, follow=True)
            curve = result.tracked["test"][0]
            ends[name] = result.evaluate(task.metric, task.rows[2])[0]
            goal = curve[:, -1] if name == "AdamW" else goal
            needed = steps_to_target(curve, goal, steps=result.tracked_steps)
            speeds[name].append(task.steps / (needed * ratios[name]))
            less = ends[name] - ends["AdamW"]
            rows.append(
                [
                    f"{title}, {name}",
                    f"{ratios[name]:.2f}",
                    f"{lrs[best]:g}",
                    str(task.steps),
                    f"{float(ends[name].mean()):.3f} {task.unit}",
                    f"{float(less.mean()):+.3f}",
                    "" if name == "AdamW" else interval(less),
                    f"{float(needed.median()):.0f}",
                    f"{float(speeds[name][-1].median()):.2f}",
                ]
            )
    for name, of_tasks in speeds.items():
        generator = torch.Generator().manual_seed(0)
        mean, low, high = interquartile_mean(torch.stack(of_tasks), generator=generator)
        rows.append([f"all tasks, {name}", "", "", "", "", "", f"[{low:.2f}, {high:.2f}]", "", f"{mean:.2f}"])
    notes.append(
        "speed: AdamW's budget over (steps to its end x step time), 0 if never; last rows: interquartile means with "
        "bootstrap intervals. Step times in CPU seconds of one thread."
    )
    notes.append(
        f"corpus {stdlib_bytes().digest[:12]}; tuned on validation rows, 2 seeds; reported on test rows, 8 seeds"
    )
    keep("comparison", "Six optimizers, three tasks, five rates each, a factor of two apart", rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
