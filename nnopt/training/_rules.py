"""What :func:`sweep` may be given as a rule, read from its signature, and the settings it is called with."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from nnopt.checks import require_finite, require_integer, require_non_empty
from nnopt.types import Schedule

__all__ = [
    "Perturb",
    "Rule",
    "RuleForm",
    "WeightsOf",
    "answer_of",
    "as_tuple",
    "checked_settings",
    "displaced",
    "multipliers",
    "per_leaf",
    "read_rule",
    "stack_settings",
]

Rule: TypeAlias = Callable[..., Tensor | tuple[Tensor, ...] | torch.optim.Optimizer]

WeightsOf: TypeAlias = Callable[..., Tensor]
"""(parameter, *state) -> the weights that a model answers with, the same shape."""

Perturb: TypeAlias = Callable[..., Sequence[Tensor]]
"""(parameters, gradients, copies=…) -> where to take the gradient of a step, as a way from the parameters."""


@dataclass(frozen=True)
class RuleForm:
    """How a rule is called.

    Args:
        is_factory: it makes an optimizer from parameters, instead of making one step.
        num_states: tensors beside parameter and gradient.
        takes_step: it has a keyword ``step``.
        takes_copies: it has a keyword ``copies``.
    """

    is_factory: bool
    num_states: int
    takes_step: bool
    takes_copies: bool


def read_rule(rule: Rule, names: Sequence[str]) -> RuleForm:
    """Read how ``rule`` is called with settings of these ``names``.

    Its positional parameters without default that are no settings are (parameter, gradient, *state), or
    the one that takes the parameters of an optimizer.

    Raises:
        TypeError: it has no signature, or takes nothing.
        ValueError: it does not know a setting, or ``step`` or ``copies`` is set by hand.
    """
    try:
        parameters = inspect.signature(rule).parameters.values()
    except (TypeError, ValueError) as error:
        raise TypeError(f"rule must have a readable signature, got {rule!r}") from error
    positional = [
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty and p.name not in names
    ]
    keywords = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_step, takes_copies = (name in keywords and name not in positional for name in ("step", "copies"))
    if not positional:
        raise TypeError("rule must take (parameter, gradient, *state) or (parameters), got neither")
    unknown = [name for name in names if name not in keywords or name in ("step", "copies", *positional)]
    if unknown:
        raise ValueError(f"settings must be keywords of rule, got {unknown[0]!r}")
    is_factory = len(positional) == 1
    num_states = max(len(positional) - 2, 0)
    return RuleForm(is_factory, num_states, takes_step and not is_factory, takes_copies and not is_factory)


def checked_settings(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a copy of ``settings`` if all have the same names, ``lr`` among them.

    Raises:
        ValueError: there is none, names differ, ``lr`` is missing, or a number is not finite.
    """
    require_non_empty("settings", settings)
    names = set(settings[0])
    for setting in settings:
        if set(setting) != names or "lr" not in setting:
            raise ValueError(
                f"settings must all have the same names and an lr, got {sorted(names)} and {sorted(setting)}"
            )
        for name, value in setting.items():
            if isinstance(value, (int, float)):
                require_finite(f"{name} of a setting", torch.tensor(float(value), dtype=torch.float64))
    return [dict(setting) for setting in settings]


def multipliers(schedule: Schedule | None, total_steps: int) -> list[float]:
    """Return the schedule's value at every step.

    Raises:
        ValueError: one is negative, NaN or infinite, or ``total_steps`` is below 1.
    """
    require_integer("total_steps", total_steps, minimum=1)
    if schedule is None:
        return [1.0] * total_steps
    values = [float(schedule(step)) for step in range(total_steps)]
    for step, value in enumerate(values):
        if not 0.0 <= value < float("inf"):
            raise ValueError(f"schedule({step}) must be >= 0, got {value!r}")
    return values


def stack_settings(
    settings: Sequence[Mapping[str, Any]], num_seeds: int, like: Tensor
) -> tuple[dict[str, Any], dict[str, Tensor | tuple[Tensor, ...]]]:
    """Split settings into what all share, and what differs as tensors (num_settings * num_seeds,).

    ``lr`` is always among the second, so that a schedule can move all of them in one place.

    Raises:
        ValueError: a value that differs is neither a number nor a tuple of numbers.
    """
    shared: dict[str, Any] = {}
    stacked: dict[str, Tensor | tuple[Tensor, ...]] = {}

    def column(numbers: Sequence[Any]) -> Tensor:
        return torch.tensor(numbers, dtype=like.dtype, device=like.device).repeat_interleave(num_seeds)

    for name, value in settings[0].items():
        values = [setting[name] for setting in settings]
        if name != "lr" and all(type(other) is type(value) and other == value for other in values):
            shared[name] = value
        elif all(_is_number(other) for other in values):
            stacked[name] = column(values)
        elif all(isinstance(other, tuple) and all(map(_is_number, other)) for other in values):
            stacked[name] = tuple(column(part) for part in zip(*values, strict=True))
        else:
            raise ValueError(
                f"{name} must be a number or a tuple of numbers where settings differ, got {values}: "
                "sweep them apart, or pass vectorize=False"
            )
    return shared, stacked


def per_leaf(stacked: Mapping[str, Tensor | tuple[Tensor, ...]], num_dims: int, size: int) -> Iterator[dict[str, Any]]:
    """Yield the stacked settings as views (size, 1, ...) that broadcast against ``size`` copies of a leaf."""

    def views(values: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = values.view(-1, *[1] * num_dims).split(size)
        return parts

    names = list(stacked)
    columns: list[Iterable[Any]] = [
        zip(*map(views, value), strict=True) if isinstance(value, tuple) else views(value) for value in stacked.values()
    ]
    for row in zip(*columns, strict=True):
        yield dict(zip(names, row))


def as_tuple(answer: object) -> tuple[Tensor, ...]:
    """Return what a step rule answered as a tuple (parameter, *state).

    Raises:
        TypeError: it is something else.
    """
    values: tuple[Any, ...] = answer if isinstance(answer, tuple) else (answer,)
    if not all(isinstance(value, Tensor) for value in values):
        raise TypeError(f"rule must return a tensor or a tuple of tensors, got {type(answer).__name__}")
    return values


def answer_of(weights_of: WeightsOf, parameter: Tensor, state: Sequence[Tensor]) -> Tensor:
    """Return the weights that a model answers with.

    Raises:
        ValueError: they have another shape than the parameter.
    """
    weights = weights_of(parameter, *state)
    if weights.shape != parameter.shape:
        raise ValueError(f"weights_of must keep shapes, got {tuple(weights.shape)} for {tuple(parameter.shape)}")
    return weights


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@contextmanager
def displaced(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    perturb: Perturb,
) -> Iterator[None]:
    """Move parameters along ``perturb`` while the block lasts; those that the loss does not reach stay."""
    reached = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    leaves = [parameter.detach() for parameter, _ in reached]
    kept = [leaf.clone() for leaf in leaves]
    ways = perturb(leaves, [gradient for _, gradient in reached])
    if [way.shape for way in ways] != [leaf.shape for leaf in leaves]:
        raise ValueError(f"perturb must return the shapes of the parameters, got {[tuple(w.shape) for w in ways]}")
    torch._foreach_add_(leaves, list(ways))
    try:
        yield
    finally:
        torch._foreach_copy_(leaves, kept)
