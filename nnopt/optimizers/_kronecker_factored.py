"""The method K-FAC for whole models of linear layers."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnopt.checks import (
    require_dtype,
    require_fraction,
    require_integer,
    require_non_negative,
    require_one_of,
    require_positive,
    require_shape,
    require_type,
)

from ._kronecker import damped_roots, divided, kronecker_factors

__all__ = ["KroneckerFactored"]

# while a model is young its curvature changes at every step, and factors of one batch would be trusted for many
_EARLY = 10
_STATE = ("input_factor", "output_factor", "input_root", "output_root", "momentum")


class KroneckerFactored:
    """K-FAC: each linear layer's gradient, divided by a curvature of two small matrices.

    One step runs the model forward, backward for the loss, and, at each refresh, backward once more for targets drawn
    from the model's own prediction: that, and not the labels, gives the Fisher matrix. The factors are running
    averages, and layers do not know of each other.

    It is no ``torch.optim.Optimizer``: gradients alone do not hold the inputs and slopes of single rows, so it
    must run the model itself. ``lr`` and ``damping`` are plain attributes that may be set between steps.

    Args:
        model: its trainable parameters all belong to ``nn.Linear`` layers; changed in place.
        generator: draws the targets, on the CPU.
        likelihood: what the outputs (B, C) mean: ``categorical``, logits, with cross-entropy for the loss and class
            numbers (B,) for targets; or ``gaussian``, means of unit variance, with the loss ½‖target − output‖² and
            targets (B, C). Both losses are means over rows.
        lr: learning rate η, at least 0; 1 is the step that the parabola asks for.
        damping: λ, above 0.
        momentum: of the steps, in [0, 1).
        decay: the factors' weight on the past, in [0, 1); at step t at most 1 − 1/t.
        refresh_every: steps between two refreshes of the factors after the first ten, which all have one; at least 1.

    Raises:
        ValueError: a number is out of range, or a trainable parameter belongs to another kind of layer or to two.
        TypeError: something is no module, no generator or no integer.

    Source:
        Martens and Grosse (2015), with fixed damping and learning rate, without their search for a step length.

    Example:
        >>> line = nn.Linear(1, 1).double()
        >>> method = KroneckerFactored(line, generator=torch.Generator().manual_seed(0), likelihood="gaussian")
        >>> x = torch.linspace(-1, 1, 9, dtype=torch.float64).unsqueeze(1)
        >>> losses = [method.step(x, 3 * x + 1) for _ in range(60)]
        >>> losses[-1] < 1e-4 * losses[0]
        True
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        generator: torch.Generator,
        likelihood: str = "categorical",
        lr: float = 1.0,
        damping: float = 0.1,
        momentum: float = 0.0,
        decay: float = 0.95,
        refresh_every: int = 1,
    ) -> None:
        require_type("model", model, nn.Module)
        require_type("generator", generator, torch.Generator)
        require_one_of("likelihood", likelihood, ("categorical", "gaussian"))
        require_non_negative("lr", lr)
        require_positive("damping", damping)
        require_fraction("momentum", momentum, open_end=True)
        require_fraction("decay", decay, open_end=True)
        require_integer("refresh_every", refresh_every, minimum=1)
        self.model, self.likelihood, self.generator = model, likelihood, generator
        self.lr, self.damping, self.momentum, self.decay = float(lr), float(damping), float(momentum), float(decay)
        self.refresh_every = refresh_every
        self.num_steps = 0
        """Steps taken so far."""
        self._layers = _linear_layers(model)
        self._state: list[dict[str, Tensor]] = [{} for _ in self._layers]

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        """Update the layers from one batch; gradients stored in ``grad`` are neither used nor changed.

        Args:
            inputs: of the model, (B, ...).
            targets: (B,) class numbers, or (B, C) numbers, as ``likelihood`` says.

        Returns:
            The mean loss of the batch before the step.

        Raises:
            ValueError: the loss is not finite, a layer is used twice or not on rows (B, in), the outputs or targets
                have another shape, or a damped factor is not positive definite; nothing was changed.
        """
        require_non_negative("lr", self.lr)
        require_positive("damping", self.damping)
        with torch.enable_grad():
            outputs, seen, before = self._forward(inputs)
            losses = self._losses(outputs, targets)
            loss = losses.mean()
        if not bool(torch.isfinite(loss)):
            raise ValueError(f"loss must be finite, got {float(loss.detach())}")
        weights = [tensor for layer in self._layers for tensor in (layer.weight, layer.bias) if tensor is not None]
        refresh = self.num_steps < _EARLY or self.num_steps % self.refresh_every == 0
        found = iter(torch.autograd.grad(loss, weights, retain_graph=refresh))
        gradients = [
            next(found) if layer.bias is None else torch.cat([next(found), next(found).unsqueeze(1)], dim=1)
            for layer in self._layers
        ]
        state = [dict(entry) for entry in self._state]
        chance = self.generator.get_state()
        try:
            if refresh:
                self._refresh(state, outputs, seen, before)
            directions = []
            for entry, gradient in zip(state, gradients, strict=True):
                direction = divided(gradient, entry["input_root"], entry["output_root"])
                if self.momentum > 0:
                    direction = entry["momentum"] = self.momentum * entry.get("momentum", 0.0) + direction
                directions.append(direction)
        except BaseException:
            self.generator.set_state(chance)
            raise
        for layer, direction in zip(self._layers, directions, strict=True):
            _move(layer, -self.lr * direction)
        self._state = state
        self.num_steps += 1
        return float(loss.detach())

    def state_dict(self) -> dict[str, Any]:
        """Return what the next steps depend on, besides the model: averages, roots, steps and the generator."""
        layers = [{name: value.clone() for name, value in entry.items()} for entry in self._state]
        return {"layers": layers, "num_steps": self.num_steps, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`, bit for bit.

        Raises:
            ValueError: an entry is missing, or belongs to layers of other sizes or to a generator of another kind;
                nothing was changed.
            TypeError: an entry is of another kind.
        """
        if set(state) != {"layers", "num_steps", "generator"} or len(state["layers"]) != len(self._layers):
            raise ValueError(f"state must have layers ({len(self._layers)}), num_steps and generator")
        require_integer("num_steps", state["num_steps"], minimum=0)
        known = set(_STATE[:-1]) if state["num_steps"] else set()  # and the momentum, where steps had one
        for layer, entry in zip(self._layers, state["layers"], strict=True):
            if not known <= set(entry) <= {*known, *_STATE[-1:]}:
                raise ValueError(f"state of a layer must have {sorted(known)}, got {sorted(entry)}")
            columns, rows = layer.in_features + (layer.bias is not None), layer.out_features
            sizes = dict(zip(_STATE, [(columns, columns), (rows, rows)] * 2 + [(rows, columns)], strict=True))
            for name, value in entry.items():
                require_dtype(name, value, None)
                require_shape(name, value, sizes[name])
        require_dtype("generator", state["generator"], torch.uint8)
        try:
            torch.Generator().set_state(state["generator"])
        except RuntimeError as error:
            raise ValueError(f"generator must be the state of one on the CPU, got another ({error})") from None
        self._state = [
            {name: value.to(layer.weight).clone() for name, value in entry.items()}
            for layer, entry in zip(self._layers, state["layers"], strict=True)
        ]
        self.num_steps = state["num_steps"]
        self.generator.set_state(state["generator"])

    def _forward(self, inputs: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Run the model; also return what went into every layer and what came out."""
        seen: dict[nn.Module, Tensor] = {}
        out: dict[nn.Module, Tensor] = {}

        def look(layer: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
            if layer in seen or given[0].dim() != 2:
                raise ValueError(f"model must use each layer once, on rows (B, in), got {layer}")
            seen[layer], out[layer] = given[0].detach(), result

        handles = [layer.register_forward_hook(look) for layer in self._layers]
        try:
            outputs: Tensor = self.model(inputs)
        finally:
            for handle in handles:
                handle.remove()
        if len(seen) < len(self._layers):
            raise ValueError(f"model must use all its layers, got {len(seen)} of {len(self._layers)}")
        return outputs, [seen[layer] for layer in self._layers], [out[layer] for layer in self._layers]

    def _refresh(
        self, state: list[dict[str, Tensor]], outputs: Tensor, seen: list[Tensor], before: list[Tensor]
    ) -> None:
        """Bring factors and roots in ``state`` up to date, from what went into the layers and came out of them."""
        with torch.enable_grad():
            drawn = self._losses(outputs, self._draw(outputs.detach())).sum()
        slopes = torch.autograd.grad(drawn, before)
        for layer, entry, rows, slope in zip(self._layers, state, seen, slopes, strict=True):
            self._average(entry, kronecker_factors(rows, slope, bias=layer.bias is not None))
            roots = damped_roots(entry["input_factor"], entry["output_factor"], self.damping)
            entry["input_root"], entry["output_root"] = roots

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row, (B,)."""
        categorical = self.likelihood == "categorical"
        if outputs.dim() != 2 or targets.shape != (outputs.shape[:1] if categorical else outputs.shape):
            shapes = f"{tuple(outputs.shape)} and {tuple(targets.shape)}"
            raise ValueError(f"outputs must be (B, C) and fit the targets, got {shapes}")
        if categorical:
            return F.cross_entropy(outputs, targets, reduction="none")
        return (outputs - targets).square().sum(1) / 2

    def _draw(self, outputs: Tensor) -> Tensor:
        """Return targets as the model believes in them; drawn on the CPU, so that every device sees the same."""
        if self.likelihood == "gaussian":
            noise = torch.randn(outputs.shape, dtype=outputs.dtype, generator=self.generator)
            return outputs + noise.to(outputs.device)
        shares = outputs.cpu().double().softmax(1)
        return torch.multinomial(shares, 1, generator=self.generator).squeeze(1).to(outputs.device)

    def _average(self, entry: dict[str, Tensor], factors: tuple[Tensor, Tensor]) -> None:
        """Move the running averages of both factors."""
        past = min(self.decay, 1 - 1 / (self.num_steps + 1))
        for name, factor in zip(_STATE[:2], factors, strict=True):
            entry[name] = factor if past == 0 else past * entry[name] + (1 - past) * factor


def _linear_layers(model: nn.Module) -> list[nn.Linear]:
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and any(parameter.requires_grad for parameter in module.parameters())
    ]
    owned = [parameter for layer in layers for parameter in layer.parameters()]
    ours = {id(parameter) for parameter in owned}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in ours:
            raise ValueError(f"model must have its trainable parameters in linear layers, got {name!r} elsewhere")
    if not layers or len(ours) < len(owned) or not all(parameter.requires_grad for parameter in owned):
        raise ValueError("model must have linear layers, trained whole and sharing no parameter")
    return layers


@torch.no_grad()
def _move(layer: nn.Linear, step: Tensor) -> None:
    if layer.bias is None:
        layer.weight.add_(step)
    else:
        layer.weight.add_(step[:, :-1])
        layer.bias.add_(step[:, -1])
