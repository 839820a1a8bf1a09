"""The training loop of every chapter: chapter *Fit*."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from nnopt.checks import require_integer, require_positive, require_type
from nnopt.types import Batch, LossFn, Schedule

from ._feed import Feed, seed_global_random_state
from ._run import History as History
from ._run import Hook as Hook
from ._run import Objective, Run
from ._run import StepRecord as StepRecord

__all__ = ["History", "Hook", "StepRecord", "fit"]


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: LossFn,
    batches: Iterable[Batch],
    *,
    total_steps: int | None = None,
    num_epochs: int | None = None,
    schedule: Schedule | None = None,
    max_norm: float | None = None,
    accumulate: int = 1,
    hooks: Sequence[Hook] = (),
    validate: Callable[[nn.Module], float | Tensor] | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    restore_best: bool | None = None,
    generator: torch.Generator | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    progress: bool = False,
) -> History:
    r"""Train a model in place: the loop that one writes by hand, with its usual mistakes refused.

    .. math:: \theta_{t+1} = \mathrm{step}(\theta_t, \nabla \sum_b \tfrac{n_b}{n} J_b(\theta_t), \eta s(t))

    Args:
        model: trained in place. In evaluation mode it is put in training mode for the run; in training mode
            the flags of its parts are left alone, so that frozen layers stay frozen.
        optimizer: any of torch's, made after the model, best with ``fused=True``. It is given a closure, so
            that L-BFGS and two-gradient methods work too.
        loss_fn: (predictions, targets) -> mean over the batch, 0-d.
        batches: pairs (inputs, targets), one iteration an epoch; moved to the model's device. Lists,
            :func:`nnopt.data.batches` and a ``DataLoader`` do.
        total_steps: number of updates; epochs are repeated as needed. This or ``num_epochs``.
        num_epochs: number of passes over ``batches``.
        schedule: step number from 0 -> multiplier of each group's ``lr``; the groups' own values are put
            back at the end.
        max_norm: the total norm of the gradients is clipped to it, > 0.
        accumulate: batches of one update, weighted by their rows, so that it equals one large batch (except
            for BatchNorm). The last update of an epoch may have fewer.
        hooks: called in this order after each update.
        validate: model -> loss, called in evaluation mode without gradients; lower is better, so return
            1 - accuracy.
        validate_every: steps between validations; None validates after each epoch and at the end.
        patience: stop after so many validations in a row without a new lowest loss.
        restore_best: end with the weights of the lowest validation loss and the optimizer's state of that step;
            None does so if ``patience`` is set.
        generator: seeds what torch draws globally (dropout); None starts from a copy of the global state.
        checkpoint: file for the state of the run: written before the first step, every ``checkpoint_every``
            steps and at the end.
        checkpoint_every: steps between checkpoints; None only writes the first and the last.
        resume: continue from ``checkpoint`` if the file exists.
        progress: show a bar in a terminal.

    Returns:
        History of the whole run.

    Raises:
        ValueError: the optimizer holds no parameter of the model, an epoch has no batch, a number is out of
            range, options contradict each other, the checkpoint is damaged or of another run, or it exists
            and ``resume`` is False.
        TypeError: an argument is of another type.
        FloatingPointError: a loss, a clipped gradient or a validation loss is NaN or infinite; the weights
            are those before that step and the checkpoint on disk is the last good one.
        OSError: a checkpoint could not be written; the older one is whole.

    Convention:
        A run that is stopped after any step, by a hook or by a crash, and resumed with the same arguments
        makes bit for bit the steps of an uninterrupted one on the same machine and number of threads. The
        state of torch's global generators is afterwards as it was before.

    Example:
        >>> model = torch.nn.Linear(1, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> data = [(torch.ones(4, 1), torch.zeros(4, 1))]
        >>> fit(model, optimizer, torch.nn.functional.mse_loss, data, num_epochs=3).num_steps
        3
    """
    _require_counts(
        total_steps=total_steps,
        num_epochs=num_epochs,
        accumulate=accumulate,
        validate_every=validate_every,
        patience=patience,
        checkpoint_every=checkpoint_every,
    )
    if (total_steps is None) == (num_epochs is None):
        raise ValueError(f"exactly one of total_steps and num_epochs must be given, got {total_steps} and {num_epochs}")
    if max_norm is not None:
        require_positive("max_norm", max_norm)
    if validate is None:
        _require_unset("validate", validate_every=validate_every, patience=patience, restore_best=restore_best)
    if checkpoint is None:
        _require_unset("checkpoint", checkpoint_every=checkpoint_every, resume=resume or None)
    device = _require_trainable(model, optimizer)
    run = Run(
        model=model,
        optimizer=optimizer,
        objective=Objective(model, optimizer, loss_fn, max_norm),
        feed=Feed(batches, device),
        schedule=schedule,
        accumulate=accumulate,
        hooks=tuple(hooks),
        validate=validate,
        validate_every=validate_every,
        patience=patience,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        checkpoint_every=checkpoint_every,
        total_steps=math.inf if total_steps is None else total_steps,
        num_epochs=math.inf if num_epochs is None else num_epochs,
        keep_best=restore_best if restore_best is not None else patience is not None,
    )
    with _own_randomness(generator, device), _training_mode(model):
        run.start(resume)
        try:
            run.train(progress)
        finally:
            run.restore_lrs()
    return run.history


def _require_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None:
            require_integer(name, count, minimum=1)


def _require_unset(missing: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name} must not be given without {missing}, got {value!r}")


def _require_trainable(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.device:
    """Return the model's device, if the optimizer holds anything of the model."""
    require_type("model", model, nn.Module)
    require_type("optimizer", optimizer, torch.optim.Optimizer)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    parameters = list(model.parameters())
    if not any(id(parameter) in held for parameter in parameters):
        raise ValueError(
            f"optimizer must hold parameters of model, got none of its {len(parameters)}: "
            "was the model built again after the optimizer?"
        )
    return parameters[0].device


@contextmanager
def _own_randomness(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Seed what torch draws globally from ``generator``; put the caller's state back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if generator is not None:
            seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device).item()
            seed_global_random_state(int(seed), device)
        yield


@contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    if not model.training:
        model.train()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
