"""The class of Muon, equal to :func:`nnopt.optimizers.muon_step`, and the groups of a model for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from nnopt.checks import require_fraction, require_integer, require_non_negative, require_one_of

from ._checks import require_betas
from ._fused import alike
from ._optimizer import (
    CheckedOptimizer,
    ParameterGroup,
    Parameters,
    StateForm,
    require_flag,
    require_optional_flag,
)
from .adaptive import adam_step
from .orthogonal import (
    MUON_COEFFICIENTS,
    muon_scale,
    muon_step,
    newton_schulz,
    require_adjust_lr,
    require_coefficients,
    require_iteration_dtype,
)

__all__ = ["Muon", "muon_groups"]

# what is kept of a parameter: by Muon, and by AdamW
_BUFFER = dict.fromkeys(["momentum_buffer"])
_ADAM = dict.fromkeys(["exp_avg", "exp_avg_sq", "step"])


class Muon(CheckedOptimizer):
    """Muon for matrices, AdamW for everything else that it is told of.

    Args:
        params: tensors, named tensors, or groups with settings of their own; see :func:`muon_groups`.
        lr: learning rate η, at least 0; a number, or a tensor of one number, which is copied.
        momentum: μ, in [0, 1).
        nesterov: look ahead.
        weight_decay: λ, at least 0, decoupled; of both rules.
        num_steps: of Newton–Schulz, at least 1.
        coefficients: a, b, c, likewise.
        dtype: of its products, None for the parameter's own. On a CPU without bfloat16 arithmetic float32 is
            several times faster.
        gram: iterate on the smaller Gram matrix: True, False as torch, or None where that is cheaper.
        adjust_lr: ``"original"``, ``"match_rms_adamw"`` or ``"spectral_unclamped"``; see :func:`muon_step`.
        fallback: what AdamW steps: ``"refuse"`` accepts matrices only; ``"others"`` gives AdamW what is no matrix;
            ``"all"`` gives it the whole group.
        betas: β₁ and β₂ of AdamW, each in [0, 1).
        eps: ε of AdamW, at least 0.
        maximize: climb instead of descend.
        foreach: False steps one by one by the pure step; True or None batch matrices of equal shape.

    Raises:
        ValueError: a parameter is no matrix under ``"refuse"``, a setting is out of range or NaN, a group has an
            unknown key, a parameter repeats.
        TypeError: a parameter is complex, an integer or sparse.

    Convention:
        Defaults are those of ``torch.optim.Muon``. With ``fallback="others"`` one learning rate serves two
        rules: choose ``adjust_lr="match_rms_adamw"``. Embeddings and the output layer are matrices too, but no
        maps between hidden layers: AdamW is usual for them. State: ``momentum_buffer``, or AdamW's; a parameter
        whose group changes its ``fallback`` begins anew. In float16 take an ``eps`` of 1e-7 or more: less is 0.

    Source:
        Jordan et al. (2024).

    Example:
        >>> weight = torch.eye(2, requires_grad=True)
        >>> optimizer = Muon([weight], lr=0.5, weight_decay=0.0)
        >>> weight.sum().backward()
        >>> optimizer.step()
    """

    CHECKS: ClassVar[Mapping[str, Callable[[str, Any], None]]] = {
        "lr": require_non_negative,
        "momentum": lambda name, value: require_fraction(name, value, open_end=True),
        "nesterov": require_flag,
        "weight_decay": require_non_negative,
        "num_steps": lambda name, value: require_integer(name, value, minimum=1),
        "coefficients": lambda name, value: require_coefficients(value),
        "dtype": lambda name, value: require_iteration_dtype(value),
        "gram": require_optional_flag,
        "adjust_lr": lambda name, value: require_adjust_lr(value),
        "fallback": lambda name, value: require_one_of(name, value, ("refuse", "others", "all")),
        "betas": lambda name, value: require_betas(value),
        "eps": require_non_negative,
        "maximize": require_flag,
        "foreach": require_optional_flag,
    }

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        num_steps: int = 5,
        coefficients: tuple[float, float, float] = MUON_COEFFICIENTS,
        dtype: torch.dtype | None = torch.bfloat16,
        gram: bool | None = None,
        adjust_lr: str = "original",
        fallback: str = "refuse",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        given = locals()
        super().__init__(params, {name: given[name] for name in self.CHECKS})

    def _require_parameter(self, name: str, parameter: Tensor, settings: Mapping[str, Any]) -> None:
        super()._require_parameter(name, parameter, settings)
        if settings["fallback"] == "refuse" and parameter.ndim != 2:
            raise ValueError(
                f"{name} must be matrices where fallback is 'refuse', got shape {tuple(parameter.shape)}: "
                "put it into a group with fallback='all', or see muon_groups"
            )

    def _state_forms(self, parameter: Tensor) -> Sequence[StateForm]:
        return [dict.fromkeys(_BUFFER, parameter.shape), {**dict.fromkeys(_ADAM, parameter.shape), "step": ()}]

    def _update(self, group: ParameterGroup, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        lr = group["lr"]
        if isinstance(lr, Tensor) and not torch.compiler.is_compiling():
            lr = lr.item()
        chosen = [group["fallback"] != "all" and parameter.ndim == 2 for parameter in parameters]
        for is_matrix, update in ((True, self._move_matrices), (False, self._move_others)):
            some = [i for i, matrix in enumerate(chosen) if matrix is is_matrix and parameters[i].numel()]
            if some:
                update(group, lr, [parameters[i] for i in some], [gradients[i] for i in some])

    def _move_matrices(self, group: ParameterGroup, lr: Any, matrices: list[Tensor], gradients: list[Tensor]) -> None:
        buffers = [_kept(self.state[matrix], matrix, _BUFFER)["momentum_buffer"] for matrix in matrices]
        settings = {name: group[name] for name in ("num_steps", "coefficients", "dtype", "gram")}
        momentum, nesterov, decay = group["momentum"], group["nesterov"], group["weight_decay"]
        if group["foreach"] is False:
            settings |= {"momentum": momentum, "nesterov": nesterov, "weight_decay": decay}
            for matrix, gradient, buffer in zip(matrices, gradients, buffers, strict=True):
                new = muon_step(matrix, gradient, buffer, lr=lr, adjust_lr=group["adjust_lr"], **settings)
                torch._foreach_copy_([matrix, buffer], list(new))
            return
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        directions = list(torch._foreach_lerp(gradients, buffers, momentum)) if nesterov else buffers
        by_shape: dict[torch.Size, list[int]] = {}
        for i, matrix in enumerate(matrices):
            by_shape.setdefault(matrix.shape, []).append(i)
        if decay != 0:
            torch._foreach_mul_(matrices, 1 - lr * decay)
        for shape, places in by_shape.items():
            some = [directions[i] for i in places]
            is_batch = len(some) > 1  # one alone is no batch of one, whose products round otherwise
            updates = newton_schulz(torch.stack(some) if is_batch else some[0], **settings)
            torch._foreach_mul_([updates], lr * muon_scale(shape, group["adjust_lr"]))
            torch._foreach_sub_([matrices[i] for i in places], list(updates.unbind()) if is_batch else [updates])

    def _move_others(self, group: ParameterGroup, lr: Any, others: list[Tensor], gradients: list[Tensor]) -> None:
        states = [_kept(self.state[other], other, _ADAM) for other in others]
        firsts, seconds, steps = ([state[name] for state in states] for name in _ADAM)
        (beta1, beta2), eps, decay = group["betas"], group["eps"], group["weight_decay"]
        if group["foreach"] is False:
            for other, gradient, first, second, step in zip(others, gradients, firsts, seconds, steps, strict=True):
                step += 1
                form: dict[str, Any] = {"step": int(step), "lr": lr, "betas": (beta1, beta2), "eps": eps}
                new = adam_step(other, gradient, first, second, weight_decay=decay, **form)
                torch._foreach_copy_([other, first, second], list(new))
            return
        is_plain = alike(others, gradients, firsts, seconds)
        adamw(
            others,
            gradients,
            firsts,
            seconds,
            [],
            steps,
            fused=is_plain,
            foreach=not is_plain,
            capturable=torch.compiler.is_compiling(),  # the count is a tensor then, also in the arithmetic
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=lr,
            weight_decay=decay,
            eps=eps,
            maximize=False,
        )


def muon_groups(
    model: nn.Module, *, lr: float, fallback_lr: float, fallback: Sequence[str] = (), **settings: Any
) -> list[ParameterGroup]:
    """Split a model's parameters into the two groups of :class:`Muon`: hidden matrices, and everything else.

    Args:
        model: any module; frozen parameters are left out.
        lr: of Muon.
        fallback_lr: of AdamW, for everything that is no matrix, for embeddings, and for what ``fallback`` names.
        fallback: names of submodules or parameters whose matrices get AdamW too, such as the output layer's.
        settings: further settings of both groups; unknown ones are refused by :class:`Muon`.

    Returns:
        Two groups, or one where the other is empty, with ``param_names``' order that of the model.

    Raises:
        ValueError: a name in ``fallback`` is none of the model's, or the model has no trainable parameter.

    Example:
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
        >>> groups = muon_groups(model, lr=0.02, fallback_lr=0.003, fallback=["2"])
        >>> [[tuple(parameter.shape) for _, parameter in group["params"]] for group in groups]
        [[(4, 4)], [(9, 4), (4,), (9, 4), (9,)]]
    """
    # a tied parameter has several names, and is what any of them says
    named = list(model.named_parameters(remove_duplicate=False))
    places = {name for name, _ in named} | {name for name, _ in model.named_modules(remove_duplicate=False) if name}
    for name in fallback:
        require_one_of("name in fallback", name, sorted(places))
    tables = (module for module in model.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag)))
    others = {id(module.weight) for module in tables}
    others |= {id(p) for name, p in named if any(name == other or name.startswith(f"{other}.") for other in fallback)}
    members: dict[str, list[tuple[str, Tensor]]] = {"refuse": [], "all": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_hidden = parameter.ndim == 2 and id(parameter) not in others
            members["refuse" if is_hidden else "all"].append((name, parameter))
    groups = [
        {"params": params, "lr": rate, "fallback": kind, **settings}
        for (kind, params), rate in zip(members.items(), (lr, fallback_lr))
        if params
    ]
    if not groups:
        raise ValueError("model must have a trainable parameter, got none")
    return groups


def _kept(state: dict[str, Any], parameter: Tensor, names: Mapping[str, None]) -> dict[str, Any]:
    """Return a parameter's state, made of zeros where it has not moved yet, or has by the other rule."""
    if state.keys() != names.keys():
        state.clear()
        for name in names:
            state[name] = torch.zeros((), dtype=torch.float32) if name == "step" else torch.zeros_like(parameter)
    return state
