"""One run of a sweep on its own: the plain half of :func:`sweep`, which its fast half must equal."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from nnopt.types import Batch, LossFn

from ._rules import Perturb, Rule, RuleForm, WeightsOf, answer_of, as_tuple, displaced

__all__ = ["train_alone"]


Update: TypeAlias = Callable[[Callable[[], Tensor], float, int], Tensor]


def train_alone(
    model: nn.Module,
    rule: Rule,
    form: RuleForm,
    loss_fn: LossFn,
    batches: Iterable[Batch],
    setting: Mapping[str, Any],
    multipliers: Sequence[float],
    weights_of: WeightsOf | None = None,
    perturb: Perturb | None = None,
) -> Iterator[float]:
    """Train ``model`` in place and yield its losses, the last one where it is not finite.

    Whenever a loss is yielded, and in the end, the model holds the weights that it answers with.
    """
    if form.is_factory:
        update = _optimizer_update(model, rule, setting)
    else:
        update = _rule_update(model, rule, form, setting, weights_of, perturb)
    for number, ((inputs, targets), multiplier) in enumerate(zip(batches, multipliers), start=1):

        def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
            loss = loss_fn(model(inputs), targets)
            if loss.ndim:
                raise ValueError(f"loss_fn must return a 0-d tensor, got shape {tuple(loss.shape)}")
            return loss

        loss = update(closure, multiplier, number).item()
        yield loss
        if not math.isfinite(loss):
            return


def _rule_update(
    model: nn.Module,
    rule: Rule,
    form: RuleForm,
    setting: Mapping[str, Any],
    weights_of: WeightsOf | None,
    perturb: Perturb | None,
) -> Update:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    states = [[torch.zeros_like(parameter) for _ in range(form.num_states)] for parameter in parameters]
    trained: list[Tensor] = []  # what the next gradient is taken at, while the model holds its answer

    def update(closure: Callable[[], Tensor], multiplier: float, number: int) -> Tensor:
        put(parameters, trained)
        loss = closure()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        if perturb is not None:
            with displaced(parameters, gradients, perturb):
                gradients = torch.autograd.grad(closure(), parameters, allow_unused=True)
        keywords = {**setting, "lr": setting["lr"] * multiplier}
        if form.takes_step:
            keywords["step"] = number
        with torch.no_grad():
            for parameter, gradient, state in zip(parameters, gradients, states):
                if gradient is None:
                    continue
                answer = rule(parameter.detach(), gradient, *state, **keywords)
                new, *state[:] = as_tuple(answer)
                parameter.copy_(new)
            if weights_of is not None:
                trained[:] = copies(parameters)
                put(parameters, [answer_of(weights_of, value, state) for value, state in zip(trained, states)])
        return loss.detach()

    return update


def _optimizer_update(model: nn.Module, rule: Rule, setting: Mapping[str, Any]) -> Update:
    optimizer = rule(model.parameters(), **setting)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"rule must return an optimizer, got {type(optimizer).__name__}")
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    # schedule-free rules train at other weights than they answer with, which they show inside this
    averaged = getattr(optimizer, "averaged", None)
    parameters = list(model.parameters())
    trained: list[Tensor] = []

    def update(closure: Callable[[], Tensor], multiplier: float, number: int) -> Tensor:
        put(parameters, trained)
        for group, base in zip(optimizer.param_groups, base_lrs):
            group["lr"] = base * multiplier
        losses: list[Tensor] = []

        def evaluate() -> Tensor:
            optimizer.zero_grad()
            loss = closure()
            losses.append(loss.detach())
            loss.backward()
            return loss

        optimizer.step(evaluate)  # type: ignore[arg-type]
        if averaged is not None:
            trained[:] = copies(parameters)
            with averaged():
                answer = copies(parameters)
            put(parameters, answer)
        return losses[0]

    return update


def copies(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the values of the parameters as they are now."""
    return [parameter.detach().clone() for parameter in parameters]


@torch.no_grad()
def put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write values into parameters; none at all leave them as they are."""
    for parameter, value in zip(parameters, values):
        parameter.copy_(value)
