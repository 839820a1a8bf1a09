"""Many runs of one small model at once, to tune fairly: chapter *Sweeps*."""

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from tqdm import tqdm

from nnopt.checks import require_integer, require_non_empty, require_one_of, require_same_shape
from nnopt.seeding import Seed
from nnopt.types import LossFn, Schedule

from ._alone import train_alone
from ._feed import seed_global_random_state
from ._rows import Rows
from ._rows import SweepData as SweepData
from ._rules import Perturb, Rule, RuleForm, WeightsOf, checked_settings, multipliers, read_rule, stack_settings
from ._stack import Stack, quiet_vmap
from .evaluate import Metric, evaluation_mode

__all__ = ["SweepData", "SweepResult", "grid", "sweep"]


def grid(**values: Sequence[Any]) -> list[dict[str, Any]]:
    """Return every combination of the values of some settings, the first name varying slowest.

    Args:
        values: name of a setting -> its values.

    Raises:
        ValueError: a name has no value.

    Example:
        >>> grid(lr=[0.1, 0.3], momentum=[0.9])
        [{'lr': 0.1, 'momentum': 0.9}, {'lr': 0.3, 'momentum': 0.9}]
    """
    for name, column in values.items():
        require_non_empty(name, column)
    return [dict(zip(values, row)) for row in itertools.product(*values.values())]


@dataclass(frozen=True)
class SweepResult:
    """What came out of every run; tensors start with (num_settings, num_seeds).

    Args:
        settings: as given.
        seeds: as given.
        losses: (num_settings, num_seeds, total_steps) on the run's batch, before each update; NaN from
            the first that is not finite.
        tracked: name -> (num_settings, num_seeds, num_points), in evaluation mode, NaN once diverged.
        tracked_steps: number of updates made at these points.
        diverged: (num_settings, num_seeds), True where a loss or a final number is NaN or infinite.
    """

    settings: list[dict[str, Any]]
    seeds: list[Seed]
    losses: Tensor
    tracked: dict[str, Tensor]
    tracked_steps: list[int]
    diverged: Tensor
    _base: nn.Module = field(repr=False)
    _state: dict[str, Tensor] = field(repr=False)
    _stack: Stack | None = field(repr=False, default=None)

    def model(self, setting: int, seed: int) -> nn.Module:
        """Return a copy of the trained model of one run, by the places of its setting and its seed.

        Raises:
            IndexError: there is no such run.
        """
        copy_index = range(len(self.settings))[setting] * len(self.seeds) + range(len(self.seeds))[seed]
        model = copy.deepcopy(self._base)
        model.load_state_dict({name: value[copy_index] for name, value in self._state.items()}, strict=False)
        return model

    def evaluate(self, metric: Metric, data: SweepData) -> Tensor:
        """Return a metric of every final model in evaluation mode.

        Args:
            metric: (predictions, targets) -> mean.
            data: rows (N, ...), or a function of the seed.

        Returns:
            (num_settings, num_seeds), float64; NaN for diverged runs.

        Raises:
            ValueError: inputs and targets differ in length.
        """
        rows = Rows(data, self.seeds)
        values = _scores(metric, rows, self._predict(rows), len(self.seeds))
        return values.view(self.diverged.shape).masked_fill(self.diverged, torch.nan)

    def best(self, scores: Tensor, *, edge: str = "refuse") -> int:
        """Return the place of the setting with the lowest mean score over the seeds.

        Args:
            scores: (num_settings, num_seeds), lower is better, from rows that were not trained on; a run
                whose score is NaN counts as infinitely bad.
            edge: ``"refuse"`` a best setting whose lr is the smallest or the largest of several, because a
                better one may lie beyond; ``"allow"`` it.

        Raises:
            ValueError: the shape is another, every setting has a diverged run, or the best is at the edge.
        """
        require_one_of("edge", edge, ("refuse", "allow"))
        require_same_shape("scores", scores, "diverged", self.diverged)
        means = scores.double().nan_to_num(nan=torch.inf).mean(dim=1)
        best = int(means.argmin())
        if means[best].isinf():
            raise ValueError("scores must have a setting without diverged runs, got none")
        lrs = [float(setting["lr"]) for setting in self.settings]
        if edge == "refuse" and len(set(lrs)) > 1 and lrs[best] in (min(lrs), max(lrs)):
            raise ValueError(
                f"the best lr must lie inside the grid, got {lrs[best]:g} at its edge: widen it, or pass edge='allow'"
            )
        return best

    def _predict(self, rows: Rows) -> Iterator[Tensor]:
        if self._stack is not None:
            with quiet_vmap():
                yield from self._stack.predict(rows.for_copies(rows.inputs, len(self.settings)), own_rows=rows.per_seed)
            return
        for setting, seed in itertools.product(range(len(self.settings)), range(len(self.seeds))):
            model = self.model(setting, seed)
            with evaluation_mode(model):
                yield model(rows.inputs[seed] if rows.per_seed else rows.inputs)


def sweep(
    make_model: Callable[[torch.Generator], nn.Module],
    rule: Rule,
    loss_fn: LossFn,
    data: SweepData,
    *,
    settings: Sequence[Mapping[str, Any]],
    seeds: Sequence[Seed],
    total_steps: int,
    batch_size: int | None,
    schedule: Schedule | None = None,
    track: Mapping[str, tuple[Metric, SweepData]] | None = None,
    track_every: int | None = None,
    vectorize: bool | None = None,
    weights_of: Callable[..., Tensor] | None = None,
    perturb: Callable[..., Sequence[Tensor]] | None = None,
    progress: bool = False,
) -> SweepResult:
    """Train one run for every setting and seed, all of them together where torch can.

    Copies of the model are stacked: one vectorized forward, one backward of the sum of their losses, one
    elementwise update. Each run has the initialization, the batches and the result that it would have alone.

    Args:
        make_model: called once per seed with its generator for ``initialization``, on the CPU.
        rule: a pure step ``rule(parameter, gradient, *state, lr=…)`` as in :class:`nnopt.types.StepRule`,
            whose state starts at zero; or whatever makes an optimizer from parameters, such as
            ``torch.optim.AdamW``. One that has ``averaged()`` (schedule-free) is tracked and kept inside it.
        loss_fn: (predictions, targets) -> mean over the batch.
        data: training rows; the sweep runs on their device.
        settings: keywords of the rule for each setting, all with the same names and ``lr``; see :func:`grid`.
        seeds: each is used with every setting, so that comparisons are paired.
        total_steps: updates of each run.
        batch_size: rows of a batch, drawn in a new order each epoch without the incomplete last batch, as
            by ``nnopt.data.batches(…, generator=seed.generator("batches"), drop_last=True)``. None takes
            all rows at every step.
        schedule: step number from 0 -> multiplier of ``lr``.
        track: name -> (metric, rows) to be followed during training, in evaluation mode.
        track_every: steps between two points; the end is always one. None: only the end.
        vectorize: None stacks the runs of a step rule and trains optimizers one by one; True refuses
            optimizers; False trains one by one, which any model and any rule can do.
        weights_of: ``(parameter, *state)`` -> the weights that are tracked and that the result answers with, for a
            step rule that trains at others, such as ``nnopt.optimizers.averaged_weights``. None: the parameters.
        perturb: (parameters, gradients) -> a way from the parameters, to where a step rule is given the gradient of
            the same batch anew, such as ``nnopt.optimizers.sharpness_perturbation`` with its radius; has a keyword
            ``copies``, True if the first dimension counts copies. None: at the parameters.
        progress: show a bar in a terminal.

    Returns:
        Curves and models of all runs. A run that diverges leaves the others alone and is reported.

    Raises:
        ValueError: a number is out of range, a setting is no keyword of the rule, shapes do not fit, or the
            rule mixes copies, or ``weights_of`` changes a shape or is given for an optimizer.
        TypeError: the rule has another form.
        RuntimeError: torch cannot vectorize the model; nothing falls back silently to slow runs.

    Convention:
        Equal to the runs one by one up to rounding for models without randomness of their own. Dropout draws
        from a generator seeded by the seeds' ``noise``: equal in distribution. The state of torch's global
        generators is afterwards as it was before.

    Example:
        >>> from nnopt.seeding import seeds
        >>> result = sweep(lambda g: torch.nn.Linear(2, 1), torch.optim.SGD, torch.nn.functional.mse_loss,
        ...                (torch.ones(4, 2), torch.zeros(4, 1)), settings=grid(lr=[0.1, 0.2]),
        ...                seeds=seeds("doc", 3), total_steps=5, batch_size=None)
        >>> result.losses.shape
        torch.Size([2, 3, 5])
    """
    require_non_empty("seeds", seeds)
    values = multipliers(schedule, total_steps)
    chosen = checked_settings(settings)
    form = read_rule(rule, list(chosen[0]))
    if vectorize and form.is_factory:
        raise ValueError("vectorize must not be True for an optimizer, whose step is not a pure rule: pass None")
    if weights_of is not None and form.is_factory:
        raise ValueError("weights_of must be None for an optimizer, which keeps its state to itself")
    if perturb is not None and form.is_factory:
        raise ValueError("perturb must be None for an optimizer, which takes its gradients itself")
    points = _points(total_steps, track, track_every)
    rows = Rows(data, seeds)
    if batch_size is not None:
        require_integer("batch_size", batch_size, minimum=1)
        if batch_size > rows.num_rows:
            raise ValueError(f"batch_size must be <= {rows.num_rows}, the rows, got {batch_size}")
    watched = {name: (metric, Rows(where, seeds)) for name, (metric, where) in (track or {}).items()}
    run = _Sweep(
        rule,
        form,
        loss_fn,
        chosen,
        list(seeds),
        values,
        batch_size,
        rows,
        watched,
        points,
        weights_of,
        perturb,
        progress,
    )
    device = rows.inputs.device
    together = vectorize if vectorize is not None else not form.is_factory
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        models = []
        for seed in seeds:
            # torch's own layers draw their weights globally, whatever generator they are offered
            seed_global_random_state(seed.integer("initialization"), device)
            models.append(make_model(seed.generator("initialization")).to(device).train())
        return run.stacked(models) if together else run.one_by_one(models)


Watched: TypeAlias = dict[str, tuple[Metric, Rows]]


@dataclass
class _Sweep:
    """What both halves of :func:`sweep` need."""

    rule: Rule
    form: RuleForm
    loss_fn: LossFn
    settings: list[dict[str, Any]]
    seeds: list[Seed]
    multipliers: list[float]
    batch_size: int | None
    rows: Rows
    watched: Watched
    points: list[int]
    weights_of: WeightsOf | None
    perturb: Perturb | None
    progress: bool

    def stacked(self, models: list[nn.Module]) -> SweepResult:
        num_settings, num_seeds = len(self.settings), len(self.seeds)
        like = next(models[0].parameters())
        shared, columns = stack_settings(self.settings, num_seeds, like)
        stack = Stack(models, num_settings, self.rule, self.form, shared, columns, self.weights_of, self.perturb)
        own_rows = self.rows.per_seed or self.batch_size is not None
        batches = self.rows.stacked_batches(self.seeds, self.batch_size, num_settings)
        curve = torch.empty(len(self.multipliers), stack.num_copies, dtype=like.dtype, device=like.device)
        points: dict[str, list[Tensor]] = {name: [] for name in self.watched}
        seed_global_random_state(self.seeds[0].integer("noise"), like.device)
        with quiet_vmap(), self.bar(len(self.multipliers)) as bar:
            for number, (multiplier, batch) in enumerate(zip(self.multipliers, batches), start=1):
                again = partial(stack.losses, self.loss_fn, *batch, own_rows=own_rows)
                losses = again()
                stack.step(losses, again, multiplier=multiplier, number=number)
                curve[number - 1] = losses.detach()
                if number in self.points:
                    for name, (metric, rows) in self.watched.items():
                        outputs = stack.predict(rows.for_copies(rows.inputs, num_settings), own_rows=rows.per_seed)
                        points[name].append(_scores(metric, rows, outputs, num_seeds))
                bar.update()
        tracked = {name: torch.stack(column, dim=1) for name, column in points.items()}
        stack.keep_answer()
        return self.result(models[0], {n: v.detach() for n, v in stack.state.items()}, curve.T, tracked, stack)

    def one_by_one(self, models: list[nn.Module]) -> SweepResult:
        curves, states = [], []
        points: dict[str, list[list[float]]] = {name: [] for name in self.watched}
        with self.bar(len(self.settings) * len(self.seeds)) as bar:
            for setting, (index, seed) in itertools.product(self.settings, enumerate(self.seeds)):
                model = copy.deepcopy(models[index])
                batches = self.rows.batches_of_seed(index, seed, self.batch_size)
                seen: dict[str, list[float]] = {name: [math.nan] * len(self.points) for name in self.watched}
                seed_global_random_state(seed.integer("noise"), self.rows.inputs.device)
                losses = []
                steps = train_alone(
                    model,
                    self.rule,
                    self.form,
                    self.loss_fn,
                    batches,
                    setting,
                    self.multipliers,
                    self.weights_of,
                    self.perturb,
                )
                for number, loss in enumerate(steps, start=1):
                    losses.append(loss)
                    if number in self.points and math.isfinite(loss):
                        for name, (metric, rows) in self.watched.items():
                            inputs, targets = rows.of_seed(index)
                            with evaluation_mode(model):
                                score = float(metric(model(inputs), targets))
                            seen[name][self.points.index(number)] = score
                losses += [math.nan] * (len(self.multipliers) - len(losses))
                curves.append(torch.tensor(losses, dtype=torch.float64))
                states.append(model.state_dict())
                for name, scores in seen.items():
                    points[name].append(scores)
                bar.update()
        state = {name: torch.stack([each[name] for each in states]) for name in states[0]}
        tracked = {name: torch.tensor(scores, dtype=torch.float64) for name, scores in points.items()}
        return self.result(models[0], state, torch.stack(curves), tracked, None)

    def result(
        self,
        base: nn.Module,
        state: dict[str, Tensor],
        losses: Tensor,
        tracked: dict[str, Tensor],
        stack: Stack | None,
    ) -> SweepResult:
        """Put together what both halves found: losses (R, total_steps), tracked (R, num_points)."""
        shape = len(self.settings), len(self.seeds)
        losses = losses.double().cpu()
        broken = (~losses.isfinite()).cumsum(dim=1) > 0
        diverged = broken[:, -1].clone()
        for value in state.values():
            diverged |= ~value.isfinite().view(len(broken), -1).all(dim=1).cpu()
        at_points = broken[:, [point - 1 for point in self.points]]
        return SweepResult(
            settings=self.settings,
            seeds=self.seeds,
            losses=losses.masked_fill(broken, math.nan).view(*shape, -1),
            tracked={
                name: values.cpu().masked_fill(at_points, math.nan).view(*shape, -1) for name, values in tracked.items()
            },
            tracked_steps=self.points,
            diverged=diverged.view(shape),
            _base=base,
            _state=state,
            _stack=stack,
        )

    def bar(self, total: int) -> Any:
        # disable=None: silent where there is no terminal, as in a notebook that is executed by a program
        return tqdm(total=total, disable=None if self.progress else True)


def _scores(metric: Metric, rows: Rows, outputs: Iterable[Tensor], num_seeds: int) -> Tensor:
    """Return the metric of every copy's outputs, (R,)."""
    with torch.no_grad():
        scores = [float(metric(output, rows.of_seed(index % num_seeds)[1])) for index, output in enumerate(outputs)]
    return torch.tensor(scores, dtype=torch.float64)


def _points(total_steps: int, track: object, track_every: int | None) -> list[int]:
    if track is None:
        if track_every is not None:
            raise ValueError(f"track_every must not be given without track, got {track_every}")
        return []
    if track_every is not None:
        require_integer("track_every", track_every, minimum=1)
    inner = range(track_every, total_steps, track_every) if track_every is not None else range(0)
    return [*inner, total_steps]
