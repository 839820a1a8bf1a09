"""Six optimizers on three tasks with one tuning budget: step times, losses at the budget, speed to AdamW's loss.

    python benchmarks/comparison.py

Five rates each, a factor of two apart, chosen on validation rows with five seeds; eight others report on test rows.
Runs in AdamW's seconds have a rate of their own, chosen alike for their number of steps. No method decays weights, so
that AdamW is Adam here. Muon leaves output, embeddings and vectors to AdamW at half of its rate; a control gives AdamW
two rates as well, the hidden matrices a quarter of the rest's. About ten minutes.
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
from _table import keep, listed
from torch import Tensor, nn

from nnopt.data import digits, photographs, pixels, stdlib_bytes, windows
from nnopt.measurement._intervals import t_interval
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
NUM_SEEDS, NUM_TUNING, CONTEXT = 8, 5, 48


def nesterov(p: Tensor, g: Tensor, b: Tensor, *, lr: Any) -> tuple[Tensor, ...]:
    return momentum_step(p, g, b, lr=lr, momentum=0.9, nesterov=True)


def is_hidden(p: Tensor, copies: bool) -> bool:
    """Tell matrices of hidden layers from bytes, places, outputs and vectors."""
    return p.ndim - copies == 2 and not {3, 10, CONTEXT, 256} & set(p.shape[-2:])


def hidden_muon(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, *, step: int, lr: Any, copies: bool = False
) -> tuple[Tensor, ...]:
    if is_hidden(p, copies):
        return *muon_step(p, g, m, lr=lr, weight_decay=0.0, dtype=None, copies=copies), v
    return adam_step(p, g, m, v, step=step, lr=lr / 2, betas=BETAS)


def two_rates(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, *, step: int, lr: Any, copies: bool = False
) -> tuple[Tensor, ...]:
    return adam_step(p, g, m, v, step=step, lr=lr if is_hidden(p, copies) else 4 * lr, betas=BETAS)


RULES: dict[str, tuple[Any, dict[str, list[Any]]]] = {
    "AdamW": (adam_step, {"betas": [BETAS]}),
    "AdamW, two rates": (two_rates, {}),
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
        metric: judged by, lower is better.
        unit: of what is reported.
        sign: -1 where the metric is reported with its sign turned.
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
    sign: int
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
            1,
            32,
            150,
            {
                "AdamW": 0.02,
                "AdamW, two rates": 0.01,
                "Nesterov": 0.15,
                "Lion": 0.006,
                "schedule-free": 0.02,
                "Muon": 0.04,
                "SOAP": 0.03,
            },
            ["5"],
        ),
        "photograph": Task(
            lambda generator: mlp((64, 64, 64, 64, 3), generator=generator),
            (features(splits.train), features(splits.validation), features(splits.test)),
            nn.functional.mse_loss,
            negative_decibels,
            "dB",
            -1,
            256,
            120,
            {
                "AdamW": 0.01,
                "AdamW, two rates": 0.005,
                "Nesterov": 0.5,
                "Lion": 0.006,
                "schedule-free": 0.02,
                "Muon": 0.06,
                "SOAP": 0.02,
            },
            ["7"],
        ),
        "language": Task(
            lambda generator: transformer(32, 2, generator=generator, context=CONTEXT),
            (text(corpus.train, 20), text(corpus.validation, 100), text(corpus.test, 100)),
            bytes_loss,
            bits,
            "bits",
            1,
            8,
            120,
            {
                "AdamW": 0.008,
                "AdamW, two rates": 0.008,
                "Nesterov": 0.3,
                "Lion": 0.006,
                "schedule-free": 0.015,
                "Muon": 0.06,
                "SOAP": 0.01,
            },
            ["positions", "head"],
        ),
    }


def train(
    task: Task,
    name: str,
    lrs: list[float],
    stream: str,
    num_seeds: int,
    *,
    total_steps: int | None = None,
    follow: bool = False,
) -> SweepResult:
    rule, options = RULES[name]
    free = name == "schedule-free"
    drawn = seeds("benchmark#comparison", num_seeds, stream=stream)
    steps = task.steps if total_steps is None else total_steps
    return sweep(
        task.make,
        rule,
        task.loss_fn,
        task.rows[0],
        settings=grid(lr=lrs, **options),
        seeds=drawn,
        total_steps=steps,
        batch_size=task.batch_size,
        schedule=None if free else cosine(total_steps=steps),
        weights_of=averaged_weights if free else None,
        track={"test": (task.metric, task.rows[2])} if follow else None,
        track_every=5 if follow else None,
    )


def step_times(make: Callable[[torch.Generator], nn.Module], task: Task) -> dict[str, float]:
    """Return the CPU seconds of a whole training step over AdamW's, medians of blocks taken in turn."""
    batch = task.rows[0][0][: task.batch_size], task.rows[0][1][: task.batch_size]
    steps: dict[str, Callable[[], None]] = {}
    for name in RULES:
        if name != "AdamW, two rates":
            model = make(torch.Generator().manual_seed(0))
            steps[name] = functools.partial(whole_step, model, optimizer_of(name, model, task.fallback), task, batch)
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(32):
        spent = {}
        for name, step in steps.items():
            start = time.thread_time()
            for _ in range(10):
                step()
            spent[name] = time.thread_time() - start
        for name, value in spent.items():
            ratios[name].append(value / spent["AdamW"])
    medians = {name: statistics.median(values[2:]) for name, values in ratios.items()}
    return {**medians, "AdamW, two rates": 1.0}


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


def with_interval(values: Tensor) -> str:
    """Write mean and half of the 95 % interval of Student's t."""
    found = t_interval(values.tolist())
    return f"{found.mean:+.2f} ±{found.high - found.mean:.2f}"


def tune(task: Task, name: str, total_steps: int) -> tuple[float, str]:
    """Return the best of five rates on the tuning seeds, and what each of them brought."""
    lrs = [factor * task.centers[name] for factor in FACTORS]
    tuned = train(task, name, lrs, "tune", NUM_TUNING, total_steps=total_steps)
    scores = tuned.evaluate(task.metric, task.rows[1])
    best = tuned.best(scores, edge="allow")
    return lrs[best], f"{name}, {total_steps} steps: {listed(lrs, scores.mean(dim=1).tolist(), best)}"


def main() -> int:
    torch.set_num_threads(1)
    rows = [["", "time", "end", "- AdamW", "timed", "- AdamW", "target", "speed"]]
    notes = [
        "time: CPU seconds of a whole step over AdamW's, one thread. end: on test rows, mean",
        "of 8 seeds; nats and bits should be low, dB high. timed: the same after as many steps",
        "as AdamW's seconds allow, at the best rate for so many. - AdamW: difference, paired,",
        "with half of its 95 % interval. target: median number of steps after which the test",
        "loss is at AdamW's last or below, three looks in a row, a look every 5 steps.",
        "speed: AdamW's budget over (steps to the target x time), median, 0 if never; of all",
        "tasks: interquartile mean, bootstrap interval. Budgets: 150, 120, 120 steps. No weight",
        "decay, so that AdamW is Adam. AdamW and Nesterov step by torch's fused kernels.",
    ]
    tuning = ["tuning, five seeds, validation rows (of dB the sign is turned; <chosen>):"]
    speeds: dict[str, list[Tensor]] = {name: [] for name in RULES}
    everything = tasks()
    language = everything["language"]
    small = step_times(lambda generator: transformer(32, 1, generator=generator, context=CONTEXT), language)
    times = {title: step_times(task.make, task) for title, task in everything.items()}
    for title, task in everything.items():
        ratios = times[title]
        goal = reference = torch.zeros(NUM_SEEDS)
        rows.append([f"{title}, {task.unit}", *[""] * 7])
        for name in RULES:
            lr, line = tune(task, name, task.steps)
            tuning.append(f"{title}, {line}")
            result = train(task, name, [lr], "report", NUM_SEEDS, follow=True)
            curve = result.tracked["test"][0]
            end = in_time = task.sign * result.evaluate(task.metric, task.rows[2])[0]
            affordable = round(task.steps / ratios[name])
            if affordable != task.steps:
                lr, line = tune(task, name, affordable)
                tuning.append(f"{title}, {line}")
                timed = train(task, name, [lr], "report", NUM_SEEDS, total_steps=affordable)
                in_time = task.sign * timed.evaluate(task.metric, task.rows[2])[0]
            if name == "AdamW":
                goal, reference = curve[:, -1], end
            needed = steps_to_target(curve, goal, steps=result.tracked_steps, stays=3)
            speeds[name].append(task.steps / (needed * ratios[name]))
            rows.append(
                [
                    f"  {name}",
                    f"{ratios[name]:.2f}",
                    f"{float(end.mean()):.3f}",
                    "" if name == "AdamW" else with_interval(end - reference),
                    f"{float(in_time.mean()):.3f}",
                    "" if name == "AdamW" else with_interval(in_time - reference),
                    f"{float(needed.median()):.0f}" if bool(needed.median().isfinite()) else "never",
                    f"{float(speeds[name][-1].median()):.2f}",
                ]
            )
    rows.append(["all tasks", *[""] * 7])
    for name, of_tasks in speeds.items():
        generator = torch.Generator().manual_seed(0)
        mean, low, high = interquartile_mean(torch.stack(of_tasks), generator=generator)
        rows.append([f"  {name}", *[""] * 5, f"[{low:.2f}, {high:.2f}]", f"{mean:.2f}"])
    notes += [
        "language with one layer, as on the page, time:",
        ", ".join(f"{name} {ratio:.2f}" for name, ratio in small.items() if name != "AdamW, two rates"),
        f"corpus {stdlib_bytes().digest[:12]}",
        "",
    ]
    keep("comparison", "Six optimizers, three tasks, five rates each, a factor of two apart", rows, [*notes, *tuning])
    return 0


if __name__ == "__main__":
    sys.exit(main())
