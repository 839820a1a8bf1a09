"""The state of one call of :func:`fit`, the records it makes and the closure it gives the optimizer."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from nnopt.checks import require_non_negative, require_type
from nnopt.types import Batch, LossFn, Schedule

from ._checkpoint import read_checkpoint, require_matching, write_checkpoint
from ._feed import Feed, global_random_state, set_global_random_state
from .evaluate import evaluation_mode

__all__ = ["History", "Hook", "Objective", "Run", "StepRecord"]


@dataclass(frozen=True)
class StepRecord:
    """What a hook is told after a step.

    Args:
        step: number of updates made, so 1 after the first.
        epoch: number of passes completed, 0 in the first.
        loss: mean loss of the step's rows, *before* its update.
        lr: learning rate of the first parameter group in this step.
        gradient_norm: total norm before clipping; None without ``max_norm``.
        model: being trained; a hook may change it.
        optimizer: that of the run.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    gradient_norm: float | None
    model: nn.Module
    optimizer: torch.optim.Optimizer


Hook: TypeAlias = Callable[[StepRecord], bool | None]
"""Called after every step; True stops the run. One with ``state_dict`` and ``load_state_dict`` is resumed."""


@dataclass
class History:
    """What happened in a run, also when it was resumed.

    Args:
        losses: of each step, before its update.
        lrs: of the first parameter group, each step.
        gradient_norms: before clipping, each step; empty without ``max_norm``.
        validation_steps: number of updates made when ``validate`` was called.
        validation_losses: what it returned.
        best_step: the step of the lowest validation loss; None without validation.
        num_epochs: passes completed.
        stopped_by: ``"length"`` (all steps were made), ``"hook"`` or ``"patience"``.
    """

    losses: list[float] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    validation_steps: list[int] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    best_step: int | None = None
    num_epochs: int = 0
    stopped_by: Literal["length", "hook", "patience"] = "length"

    @property
    def num_steps(self) -> int:
        """Number of updates made."""
        return len(self.losses)


class Objective:
    """The closure of one update: loss and gradients of a group of batches at the present weights."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: LossFn, max_norm: float | None
    ) -> None:
        self.model, self.optimizer, self.loss_fn, self.max_norm = model, optimizer, loss_fn, max_norm
        self.group: list[Batch] = []
        self.step = 0
        self.losses: list[float] = []
        self.norms: list[float] = []

    def begin(self, group: list[Batch], step: int) -> None:
        self.group, self.step, self.losses, self.norms = group, step, [], []

    def __call__(self) -> Tensor:
        self.model.zero_grad()
        self.optimizer.zero_grad()
        num_rows = sum(len(inputs) for inputs, _ in self.group)
        mean = torch.zeros(())
        for inputs, targets in self.group:
            loss = self.loss_fn(self.model(inputs), targets)
            if loss.ndim:
                raise ValueError(f"loss_fn must return the mean, a 0-d tensor, got shape {tuple(loss.shape)}")
            if len(self.group) > 1:
                loss = loss * (len(inputs) / num_rows)
            mean = mean + loss.detach().cpu()
            self._require_finite("loss", mean.item())
            loss.backward()
        self.losses.append(mean.item())
        if self.max_norm is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.max_norm))
            self._require_finite("gradient norm", norm)
            self.norms.append(norm)
        return mean

    def _require_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            lr = float(self.optimizer.param_groups[0]["lr"])
            raise FloatingPointError(f"{name} must be finite, got {value} in step {self.step} (lr {lr:g})")


@dataclass
class Run:
    """The state of one call of :func:`fit`."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    objective: Objective
    feed: Feed
    schedule: Schedule | None
    accumulate: int
    hooks: tuple[Hook, ...]
    validate: Callable[[nn.Module], float | Tensor] | None
    validate_every: int | None
    patience: int | None
    checkpoint: Path | None
    checkpoint_every: int | None
    total_steps: float
    num_epochs: float
    keep_best: bool
    history: History = field(default_factory=History)
    base_lrs: list[float | Tensor] = field(default_factory=list)
    best: dict[str, Any] | None = None
    waited: int = 0

    def start(self, resume: bool) -> None:
        self.base_lrs = [group["lr"] for group in self.optimizer.param_groups]
        if self.checkpoint is None:
            return
        if not self.checkpoint.exists():
            self.save()
        elif resume:
            self.load(read_checkpoint(self.checkpoint))
        else:
            raise ValueError(
                f"checkpoint must not exist unless resume=True, got {self.checkpoint}: resume or remove it"
            )

    def train(self, progress: bool) -> None:
        history = self.history
        history.stopped_by = "length"
        with _bar(progress, self.total_steps, history.num_steps) as advance:
            while history.num_steps < self.total_steps and self.feed.epoch < self.num_epochs:
                if self.patience is not None and self.waited >= self.patience:
                    history.stopped_by = "patience"
                    break
                group = self.feed.group(self.accumulate)
                if not group:
                    history.num_epochs = self.feed.epoch
                    if self.validate_every is None:
                        self.check()
                    continue
                stop = self.step(group)
                advance(history.losses[-1])
                if stop:
                    history.stopped_by = "hook"
                    break
        # a run that a hook interrupts is resumed as if it had not been, so it validates nothing extra
        if self.validate_every is None and history.stopped_by != "hook":
            self.check()
        self.save()
        if self.keep_best and self.best is not None:
            self.model.load_state_dict(self.best["model"])
            # settings and groups stay as they are: a hook may have changed them since
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({**self.best["optimizer"], "param_groups": groups})

    def step(self, group: list[Batch]) -> bool:
        history, step = self.history, self.history.num_steps
        if self.schedule is not None:
            multiplier = self.schedule(step)
            require_non_negative(f"schedule({step})", multiplier)
            for part, base in zip(self.optimizer.param_groups, self.base_lrs):
                part["lr"] = base * multiplier
        lr = float(self.optimizer.param_groups[0]["lr"])
        self.objective.begin(group, step + 1)
        self.optimizer.step(cast(Callable[[], float], self.objective))
        history.losses.append(self.objective.losses[0])
        history.lrs.append(lr)
        history.gradient_norms.extend(self.objective.norms[:1])
        stop = self.call_hooks(lr)
        step = history.num_steps
        if self.validate_every is not None and step % self.validate_every == 0:
            self.check()
        if self.checkpoint_every is not None and step % self.checkpoint_every == 0:
            self.save()
        return stop

    def call_hooks(self, lr: float) -> bool:
        norms = self.objective.norms
        record = StepRecord(
            self.history.num_steps,
            self.feed.epoch,
            self.history.losses[-1],
            lr,
            norms[0] if norms else None,
            self.model,
            self.optimizer,
        )
        answers = [hook(record) for hook in self.hooks]
        for answer in answers:
            require_type("the answer of a hook", answer, (bool, type(None)))
        return any(answers)

    def check(self) -> None:
        """Validate, unless that was done at this very step."""
        history = self.history
        if self.validate is None or history.validation_steps[-1:] == [history.num_steps]:
            return
        # what a validation draws must not move the dropout of the steps that follow
        cuda = [self.feed.device] if self.feed.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), evaluation_mode(self.model):
            value = float(self.validate(self.model))
        if not math.isfinite(value):
            raise FloatingPointError(f"validate must return a finite number, got {value} at step {history.num_steps}")
        if value < min(history.validation_losses, default=math.inf):
            history.best_step, self.waited = history.num_steps, 0
            if self.keep_best:
                # both, since some rules (schedule-free ones) keep a part of the answer in their state
                states = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
                self.best = copy.deepcopy(states)
        else:
            self.waited += 1
        history.validation_steps.append(history.num_steps)
        history.validation_losses.append(value)

    def restore_lrs(self) -> None:
        if self.schedule is not None:
            for part, base in zip(self.optimizer.param_groups, self.base_lrs):
                part["lr"] = base

    def save(self) -> None:
        if self.checkpoint is None:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "base_lrs": self.base_lrs,
            "feed": self.feed.state(),
            "random": global_random_state(self.feed.device),
            "history": asdict(self.history),
            "best": self.best,
            "waited": self.waited,
            "hooks": [hook.state_dict() for hook in _with_state(self.hooks)],
        }
        write_checkpoint(self.checkpoint, state, step=self.history.num_steps)

    def load(self, state: dict[str, Any]) -> None:
        require_matching(self.model, self.optimizer, state)
        hooks = _with_state(self.hooks)
        if len(hooks) != len(state["hooks"]):
            raise ValueError(f"hooks must have {len(state['hooks'])} with a state, as the checkpoint, got {len(hooks)}")
        self.feed.load(state["feed"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for hook, saved in zip(hooks, state["hooks"]):
            hook.load_state_dict(saved)
        self.history = History(**state["history"])
        self.base_lrs, self.best, self.waited = state["base_lrs"], state["best"], state["waited"]
        set_global_random_state(state["random"], self.feed.device)


@contextmanager
def _bar(progress: bool, total_steps: float, done: int) -> Iterator[Callable[[float], None]]:
    total = int(total_steps) if math.isfinite(total_steps) else None
    # disable=None: silent where there is no terminal, as in a notebook that is executed by a program
    with tqdm(total=total, initial=done, unit="step", disable=None if progress else True) as bar:

        def advance(loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            bar.update()

        yield advance


def _with_state(hooks: Iterable[Hook]) -> list[Any]:
    return [hook for hook in hooks if hasattr(hook, "state_dict") and hasattr(hook, "load_state_dict")]
