"""Copies of one small model, trained together: the fast half of :func:`sweep`."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from nnopt.types import LossFn

from ._rules import Perturb, Rule, RuleForm, WeightsOf, answer_of, as_tuple, displaced, per_leaf
from .evaluate import evaluation_mode

__all__ = ["Stack", "quiet_vmap"]

# A piece of this many numbers stays in a core's cache through all the operations of a rule
_PIECE = 32_768
# copies that are evaluated at once; more only need more memory
_CHUNK = 32


@dataclass
class _Piece:
    """Some copies of one parameter, with their state and settings: views, so that one update serves all."""

    parameter: Tensor
    state: list[Tensor]
    settings: dict[str, Any]


class Stack:
    """R copies of a module as one set of tensors (R, ...).

    Args:
        models: one per seed, alike but for their numbers; copy ``k * len(models) + s`` starts as model s.
        num_settings: how many copies of each.
        rule: a pure step.
        form: what :func:`read_rule` says of it.
        shared: settings that all copies have.
        stacked: settings as tensors (R,), ``lr`` among them.
        weights_of: what the copies answer with, from a parameter and its state; None for the parameter.
        perturb: where the gradient of a step is taken; None for the parameters.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        num_settings: int,
        rule: Rule,
        form: RuleForm,
        shared: Mapping[str, Any],
        stacked: Mapping[str, Tensor | tuple[Tensor, ...]],
        weights_of: WeightsOf | None = None,
        perturb: Perturb | None = None,
    ) -> None:
        self.base = models[0]
        self.perturb = perturb
        self.rule, self.form, self.shared, self.weights_of = rule, form, dict(shared), weights_of
        self.told = {"copies": True} if form.takes_copies else {}
        parameters, buffers = stack_module_state(list(models))
        self.state = {
            name: value.detach().repeat(num_settings, *[1] * (value.ndim - 1))
            for name, value in {**parameters, **buffers}.items()
        }
        self.leaves = {
            name: self.state[name].requires_grad_()
            for name, parameter in self.base.named_parameters()
            if parameter.requires_grad
        }
        self.num_copies = len(models) * num_settings
        # torch cannot look for tied parameters under vmap: give every place of a shared one the same tensor
        firsts: dict[int, str] = {}
        self.names = {name: firsts.setdefault(id(value), name) for name, value in _places(self.base)}
        lr = stacked["lr"]
        assert isinstance(lr, Tensor)
        self.base_lr, self.lr = lr, lr.clone()
        stacked = {**stacked, "lr": self.lr}
        self.pieces = {name: self._pieces(leaf.detach(), stacked) for name, leaf in self.leaves.items()}
        self.checked = False

    def losses(self, loss_fn: LossFn, inputs: Tensor, targets: Tensor, *, own_rows: bool) -> Tensor:
        """Return the loss of every copy, (R,), on rows of its own (R, B, ...) or on shared ones (B, ...).

        Raises:
            RuntimeError: torch cannot vectorize the model or the loss.
            ValueError: the loss is not one number.
        """

        def one(state: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
            return loss_fn(self._call(state, inputs), targets)

        rows = 0 if own_rows else None
        try:
            losses: Tensor = vmap(one, in_dims=(0, rows, rows), randomness="different")(self.state, inputs, targets)
        except RuntimeError as error:
            raise RuntimeError(
                f"model or loss cannot be vectorized by torch, pass vectorize=False ({error})"
            ) from error
        if losses.ndim != 1:
            raise ValueError(f"loss_fn must return a 0-d tensor, got shape {tuple(losses.shape[1:])}")
        return losses

    def step(self, losses: Tensor, again: Callable[[], Tensor], *, multiplier: float, number: int) -> None:
        """Update every copy by the gradient of its own loss; ``number`` counts from 1, ``again`` is the loss anew."""
        leaves = list(self.leaves.values())
        gradients = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
        if self.perturb is not None:
            with displaced(leaves, gradients, partial(self.perturb, copies=True)):
                gradients = torch.autograd.grad(again().sum(), leaves, allow_unused=True)
        with torch.no_grad():
            torch.mul(self.base_lr, multiplier, out=self.lr)
            common = {**self.shared, "step": number} if self.form.takes_step else self.shared
            if not self.checked:
                self._require_rule(gradients, common)
            for pieces, gradient in zip(self.pieces.values(), gradients):
                if gradient is None:
                    continue
                for piece, part in zip(pieces, gradient.split(len(pieces[0].parameter))):
                    answer = self.rule(piece.parameter, part, *piece.state, **piece.settings, **common, **self.told)
                    moved, *state = as_tuple(answer)
                    piece.parameter.copy_(moved)
                    for i, new in enumerate(state):
                        if number == 1 and new.shape != piece.state[i].shape:
                            piece.state[i] = new.clone()  # a rule may give its state another shape at first
                        else:
                            piece.state[i].copy_(new)

    def predict(self, inputs: Tensor, *, own_rows: bool) -> Iterator[Tensor]:
        """Yield the outputs of every copy in evaluation mode, on rows of its own (R, ...) or shared ones."""
        forward = vmap(self._call, in_dims=(0, 0 if own_rows else None), randomness="different")
        everything = self.state | self._answer()
        for start in range(0, self.num_copies, _CHUNK):
            some = slice(start, start + _CHUNK)
            with evaluation_mode(self.base):
                state = {name: value[some] for name, value in everything.items()}
                outputs = forward(state, inputs[some] if own_rows else inputs)
            yield from outputs

    def keep_answer(self) -> None:
        """Put what the copies answer with in the place of their parameters: training is over."""
        self.state.update(self._answer())
        self.weights_of = None

    @torch.no_grad()
    def _answer(self) -> dict[str, Tensor]:
        """Return the leaves that the copies answer with, where they are others than those they train with."""
        if self.weights_of is None:
            return {}
        return {
            name: torch.cat([answer_of(self.weights_of, piece.parameter, piece.state) for piece in pieces])
            for name, pieces in self.pieces.items()
        }

    def _call(self, state: dict[str, Tensor], inputs: Tensor) -> Any:
        everything = {name: state[first] for name, first in self.names.items()}
        return functional_call(self.base, everything, (inputs,), tie_weights=False)

    def _pieces(self, leaf: Tensor, stacked: Mapping[str, Tensor | tuple[Tensor, ...]]) -> list[_Piece]:
        size = max(1, min(self.num_copies, _PIECE // max(leaf[0].numel(), 1)))
        states = [torch.zeros_like(leaf).split(size) for _ in range(self.form.num_states)]
        settings = per_leaf(stacked, leaf.ndim - 1, size)
        return [
            _Piece(parameter, [state[i] for state in states], setting)
            for i, (parameter, setting) in enumerate(zip(leaf.split(size), settings, strict=True))
        ]

    def _require_rule(self, gradients: Sequence[Tensor | None], common: Mapping[str, Any]) -> None:
        """Refuse a rule that answers another number of tensors, or mixes the copies."""
        self.checked = True
        for pieces, gradient in zip(self.pieces.values(), gradients):
            if gradient is None:
                continue
            piece = pieces[0]
            size = len(piece.parameter)
            together = as_tuple(
                self.rule(piece.parameter, gradient[:size], *piece.state, **piece.settings, **common, **self.told)
            )
            if len(together) != 1 + len(piece.state):
                raise ValueError(
                    f"rule must return the parameter and its {len(piece.state)} states, got {len(together)} tensors"
                )
            first = {
                name: tuple(part[0] for part in value) if isinstance(value, tuple) else value[0]
                for name, value in piece.settings.items()
            }
            alone = as_tuple(
                self.rule(piece.parameter[0], gradient[0], *[s[0] for s in piece.state], **first, **common)
            )
            if together[0].shape != piece.parameter.shape:
                raise ValueError(
                    f"rule must keep shapes, got {tuple(together[0].shape)} for {tuple(piece.parameter.shape)}"
                )
            for new, single in zip(together, alone):
                if new.shape != (size, *single.shape):
                    raise ValueError(
                        f"rule must keep the copies of its state, got {tuple(new.shape)} for {size} copies of "
                        f"{tuple(single.shape)}"
                    )
            # states are not compared: an eigenbasis, for one, is a matter of rounding where eigenvalues meet
            if not torch.allclose(together[0][0], alone[0], rtol=1e-3, atol=1e-6, equal_nan=True):
                raise ValueError(
                    "rule must treat every copy alone, got another step for one copy than among "
                    f"{size}: pass vectorize=False"
                )


@contextmanager
def quiet_vmap() -> Iterator[None]:
    """Ignore torch's warning that an operation is repeated copy by copy, for want of a batching rule."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        yield


def _places(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every place that holds a parameter or buffer, once also where a whole module is used twice."""
    for prefix, module in model.named_modules():
        for name, value in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
            yield f"{prefix}.{name}" if prefix else name, value
