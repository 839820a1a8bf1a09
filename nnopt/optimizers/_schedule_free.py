"""The class of schedule-free AdamW, equal to :func:`nnopt.optimizers.schedule_free_adamw_step`."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from nnopt.checks import require_non_negative, require_type

from ._checks import require_betas
from ._fused import alike, descend
from ._guard import guard_model
from ._optimizer import (
    CheckedOptimizer,
    ParameterGroup,
    Parameters,
    StateForm,
    require_count,
    require_flag,
    require_optional_flag,
)
from .averaging import averaged_weights, schedule_free_adamw_step

__all__ = ["ScheduleFreeAdamW"]


class ScheduleFreeAdamW(CheckedOptimizer):
    """AdamW without a schedule: trains at weights y, answers with their weighted mean x.

    Between steps the parameters are y. Everything that reads the model for an answer (validation, saving it for
    use) belongs inside ``with optimizer.averaged():``, where they are x.

    Args:
        params: tensors, named tensors, or groups with settings of their own.
        lr: learning rate η, at least 0; a number, or a tensor of one number, which is copied. A warm-up is a
            schedule of it; no other is needed.
        betas: β₁ of y between z and x, and β₂ of the squared gradients, each in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0, taken at y.
        maximize: climb instead of descend.
        foreach: True updates many tensors in one call, False one by one by the pure step, None as fast as it can:
            on a CPU with torch's fused kernels, whose steps differ from the others' by rounding.
        guard: the model of these parameters. From now on it refuses to run in evaluation mode outside
            ``averaged()``, so that nobody measures y in place of x unawares. Copies of it are free, and a later
            optimizer of the same parameters takes the guard over.

    Raises:
        ValueError: a setting is out of range or NaN, a group has an unknown key, a parameter repeats.
        TypeError: a parameter is complex, an integer or sparse, or ``guard`` is no module.

    Convention:
        As ``schedulefree.AdamWScheduleFree`` while the rate does not fall. State: two tensors in the parameter's
        dtype, ``gap`` = y − x and ``exp_avg_sq``, as many as Adam's, and two numbers, for each parameter: one
        that joins later has its own count. Inside ``torch.compile`` the update runs as it is. In float16 an ε below
        1e-7 is 0, and a gradient of zero then gives NaN, as with ``torch.optim.AdamW`` where it is not fused.

    Source:
        Defazio et al. (2024), algorithm 1.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = ScheduleFreeAdamW(model.parameters(), lr=0.01, guard=model)
        >>> with optimizer.averaged():
        ...     answer = model.eval()(torch.ones(1, 2))
    """

    CHECKS: ClassVar[Mapping[str, Callable[[str, Any], None]]] = {
        "lr": require_non_negative,
        "betas": lambda name, value: require_betas(value),
        "eps": require_non_negative,
        "weight_decay": require_non_negative,
        "maximize": require_flag,
        "foreach": require_optional_flag,
    }
    # of the class, since neither copies nor checkpoints carry attributes of an optimizer
    _is_averaged = False

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 2.5e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
        guard: nn.Module | None = None,
    ) -> None:
        require_type("guard", guard, (nn.Module, type(None)))
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "maximize": maximize, "foreach": foreach})
        if guard is not None:
            guard_model(guard, self)

    @contextmanager
    @torch.no_grad()
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights x into the parameters, and afterwards y back, bit for bit.

        Inside, gradients work as ever, but ``step`` and the optimizer's ``state_dict`` are refused: they belong
        to y. Costs one copy of the parameters while it lasts.

        Raises:
            RuntimeError: it is entered twice.
        """
        self._require_training("averaged() again")
        kept: list[tuple[Tensor, Tensor]] = []
        try:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if "gap" in self.state.get(parameter, {}):
                        kept.append((parameter, parameter.clone()))
                        parameter.copy_(averaged_weights(parameter, self.state[parameter]["gap"]))
            self._is_averaged = True
            with torch.enable_grad():
                yield
        finally:
            self._is_averaged = False
            for parameter, trained in kept:
                parameter.copy_(trained)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient.

        Raises:
            RuntimeError: inside ``averaged()``.
            TypeError: a gradient is sparse or of another dtype than its parameter; nothing was changed.
        """
        self._require_training("a step")
        return super().step(closure)

    def state_dict(self) -> dict[str, Any]:
        """Return settings and states, which belong to the parameters outside ``averaged()``.

        Raises:
            RuntimeError: inside ``averaged()``.
        """
        self._require_training("a checkpoint of the optimizer")
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a checkpoint, whose states belong to the parameters outside ``averaged()``.

        Raises:
            RuntimeError: inside ``averaged()``.
            ValueError: as at construction.
        """
        self._require_training("loading a checkpoint")
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        """Refuse copies inside ``averaged()``, where the parameters are not those that the states belong to."""
        self._require_training("a copy of the optimizer")
        return super().__getstate__()

    def _require_training(self, what: str) -> None:
        if self._is_averaged:
            raise RuntimeError(f"{what} must be outside averaged(), where the parameters are those of training")

    def _state_forms(self, parameter: Tensor) -> Sequence[StateForm]:
        numbers = {"step": require_count, "weight_sum": require_non_negative}
        return [{**numbers, "gap": parameter.shape, "exp_avg_sq": parameter.shape}]

    @_disable_dynamo  # the counts are numbers: compiled, it would be compiled anew at every step
    def _update(self, group: ParameterGroup, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        # parameters that joined later are at another step: almost always there is one age
        ages: dict[tuple[int, float], tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            state = self.state[parameter]
            if not state:
                state["step"], state["weight_sum"] = 0, 0.0
                state["gap"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            equals = ages[state["step"], state["weight_sum"]]
            equals[0].append(parameter)
            equals[1].append(gradient)
        for (step, weight_sum), (some, their_gradients) in ages.items():
            self._update_equals(group, step + 1, weight_sum, some, their_gradients)

    def _update_equals(
        self,
        group: ParameterGroup,
        step: int,
        weight_sum: float,
        parameters: list[Tensor],
        gradients: list[Tensor],
    ) -> None:
        states = [self.state[parameter] for parameter in parameters]
        gaps: list[Tensor] = [state["gap"] for state in states]
        seconds: list[Tensor] = [state["exp_avg_sq"] for state in states]
        lr, (beta1, beta2), eps, decay = float(group["lr"]), group["betas"], group["eps"], group["weight_decay"]
        total = weight_sum + lr * lr
        if lr == 0 or total == 0:  # nothing moves, not even by rounding; the square of a rate may be too small
            torch._foreach_mul_(seconds, beta2)
            torch._foreach_addcmul_(seconds, gradients, gradients, value=1 - beta2)
        elif group["foreach"] is False:
            for parameter, gradient, gap, second in zip(parameters, gradients, gaps, seconds, strict=True):
                before = torch.tensor(weight_sum, dtype=torch.float64, device=parameter.device)
                y, new_gap, _, new_second = schedule_free_adamw_step(
                    parameter, gradient, gap, before, second,
                    step=step, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay,
                )  # fmt: skip
                torch._foreach_copy_([parameter, gap, second], [y, new_gap, new_second])
        else:
            share = lr * lr / total
            numbers = {"step": step, "rate": (1 - beta1) * lr, "beta2": beta2, "eps": eps, "decay": decay}
            numbers |= {"pull": share / (1 - beta1) + 1 - share, "shrink": 1 - share}
            is_fused = group["foreach"] is None and alike(parameters, gradients, gaps, seconds)
            advance = _advance_fused if is_fused else _advance
            advance(parameters, gradients, gaps, seconds, **numbers)
        for state in states:
            state["step"], state["weight_sum"] = step, total


# Both passes leave x in the parameters, add up (1−β)(z − x) with the new z in the gaps, and go on to the new y:
# x + c/(1−β) · reach + (1−c) · reach, whose factor is ``pull``.


def _advance(
    parameters: list[Tensor],
    gradients: list[Tensor],
    gaps: list[Tensor],
    seconds: list[Tensor],
    *,
    step: int,
    rate: float,
    beta2: float,
    eps: float,
    decay: float,
    pull: float,
    shrink: float,
) -> None:
    torch._foreach_mul_(seconds, beta2)
    torch._foreach_addcmul_(seconds, gradients, gradients, value=1 - beta2)
    scales = list(torch._foreach_div(seconds, 1 - beta2**step))
    torch._foreach_sqrt_(scales)
    torch._foreach_add_(scales, eps)
    torch._foreach_sub_(parameters, gaps)
    if decay != 0:  # λy = λ (x + gap)
        torch._foreach_mul_(gaps, 1 - rate * decay)
        torch._foreach_add_(gaps, parameters, alpha=-rate * decay)
    torch._foreach_addcdiv_(gaps, gradients, scales, value=-rate)
    torch._foreach_add_(parameters, gaps, alpha=pull)
    torch._foreach_mul_(gaps, shrink)


def _advance_fused(
    parameters: list[Tensor],
    gradients: list[Tensor],
    gaps: list[Tensor],
    seconds: list[Tensor],
    *,
    step: int,
    rate: float,
    beta2: float,
    eps: float,
    decay: float,
    pull: float,
    shrink: float,
) -> None:
    descend(parameters, gaps, lr=1.0, decay=0.0, ascent=False)
    # Adam without memory of its own on the gaps; its first moments become the gradients, which they are already
    firsts = [gradient.clone() for gradient in gradients]
    steps = [torch.tensor(float(step))] * len(gaps)
    torch._fused_adamw_(
        gaps,
        gradients,
        firsts,
        seconds,
        [],
        steps,
        lr=rate,
        beta1=0.0,
        beta2=beta2,
        weight_decay=decay,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )
    if decay != 0:  # of λy = λ (x + gap) the kernel took the second half
        descend(gaps, parameters, lr=rate * decay, decay=0.0, ascent=False)
    descend(parameters, gaps, lr=-pull, decay=0.0, ascent=False)
    descend(gaps, gaps, lr=1 - shrink, decay=0.0, ascent=False)
