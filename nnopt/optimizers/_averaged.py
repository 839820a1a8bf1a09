"""A second set of weights beside a model, and running statistics that fit them."""

import copy
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nnopt.checks import require_fraction, require_integer, require_one_of, require_type
from nnopt.types import Batch

__all__ = ["Averaged", "refresh_batchnorm"]


class Averaged(nn.Module):
    """A copy of a model whose weights are an average over its training.

    Call ``update(model)`` after every step, and evaluate the copy.

    Args:
        model: is copied; any module.
        decay: δ of an exponential moving average, in [0, 1]; None for the mean of all weights from the start on.
            The average reaches back about 1/(1−δ) updates: choose it well below the length of the run.
        start_step: number of first updates, at least 0, in which the copy only follows.
        buffers: ``"copy"`` the model's latest, such as running statistics of BatchNorm, which then belong to other
            weights: call :func:`refresh_batchnorm`; or ``"average"`` those that are floating point.
        warmup: with ``decay``, remember less at first, as :func:`ema_update` with ``step``.

    Raises:
        ValueError: a number is out of range, or ``warmup`` is given without ``decay``.
        TypeError: ``model`` is no module.

    Convention:
        Without start and warm-up equal to ``torch.optim.swa_utils.AveragedModel`` with its ``get_ema_multi_avg_fn``
        or none: the first update copies. Its default decay is 0.999, ours must be named. The average has the dtype
        of the model; in bfloat16 it stalls at horizons beyond a hundred steps or so, so average a copy in float32.

    Source:
        Izmailov et al. (2018) for the mean; Polyak and Juditsky (1992).

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> averaged = Averaged(model, decay=0.98)
        >>> averaged.update(model)
        >>> torch.equal(averaged(torch.ones(1, 2)), model(torch.ones(1, 2)))
        True
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        decay: float | None = None,
        start_step: int = 0,
        buffers: Literal["copy", "average"] = "copy",
        warmup: bool = False,
    ) -> None:
        require_type("model", model, nn.Module)
        require_integer("start_step", start_step, minimum=0)
        require_one_of("buffers", buffers, ("copy", "average"))
        require_type("warmup", warmup, bool)
        if decay is not None:
            require_fraction("decay", decay)
        elif warmup:
            raise ValueError("warmup must not be given without decay, got True")
        super().__init__()
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.start_step, self.buffers_are, self.warmup = decay, start_step, buffers, warmup
        self.num_updates = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Answer with the averaged weights."""
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's weights into the average.

        Args:
            model: the one that was copied, after a step.

        Raises:
            ValueError: its tensors have other names or shapes; nothing was changed.
        """
        own: dict[str, Tensor] = dict(self.module.named_parameters())
        other: dict[str, Tensor] = dict(model.named_parameters())
        own_buffers, other_buffers = dict(self.module.named_buffers()), dict(model.named_buffers())
        for mine, theirs in ((own, other), (own_buffers, other_buffers)):
            if {n: t.shape for n, t in mine.items()} != {n: t.shape for n, t in theirs.items()}:
                raise ValueError(f"model must have the tensors of the copied one, got {sorted(theirs)}")
        # what is no fraction, such as a count, has no mean
        whole = [name for name, value in own.items() if not (value.is_floating_point() or value.is_complex())]
        own_buffers |= {name: own.pop(name) for name in whole}
        other_buffers |= {name: other[name] for name in whole}
        averaged = [name for name, value in own_buffers.items() if value.is_floating_point()]
        if self.buffers_are == "average":
            own |= {name: own_buffers.pop(name) for name in averaged}
            other |= {name: other_buffers[name] for name in averaged}
        for name, buffer in own_buffers.items():
            buffer.copy_(other_buffers[name])
        self.num_updates += 1
        number = self.num_updates - self.start_step  # of this value in the average
        if number <= 1:
            new = 1.0
        elif self.decay is None:
            new = 1 / number
        else:
            new = 1 - (min(self.decay, (1 + number) / (10 + number)) if self.warmup else self.decay)
        mine_now, theirs_now = list(own.values()), [other[name].detach() for name in own]
        if new == 1.0:
            torch._foreach_copy_(mine_now, theirs_now)
            return
        theirs_now = [value.to(mine) for mine, value in zip(mine_now, theirs_now)]
        torch._foreach_lerp_(mine_now, theirs_now, new)

    def get_extra_state(self) -> int:
        """Return the number of updates, for ``state_dict``."""
        return self.num_updates

    def set_extra_state(self, state: int) -> None:
        """Take the number of updates from a ``state_dict``."""
        self.num_updates = state


@torch.no_grad()
def refresh_batchnorm(model: nn.Module, batches: Iterable[Tensor | Batch]) -> None:
    """Measure the running statistics of every BatchNorm layer anew, with the weights as they are now.

    Args:
        model: changed in place; one without BatchNorm stays as it is.
        batches: inputs, or pairs that begin with inputs, moved to the model's device; each counts alike.

    Raises:
        ValueError: there is no batch, or BatchNorm refuses one (of a single row); the statistics are the old ones.

    Convention:
        As ``torch.optim.swa_utils.update_bn``, with two exceptions: only BatchNorm is in training mode, so that
        dropout does not take part (torch's runs the whole model in training mode), and no batch at all is
        refused (torch's resets the statistics and leaves them so).

    Source:
        Izmailov et al. (2018), section 3.2.

    Example:
        >>> model = torch.nn.BatchNorm1d(1)
        >>> refresh_batchnorm(model, [torch.tensor([[1.0], [3.0]])])
        >>> model.running_mean, model.running_var
        (tensor([2.]), tensor([2.]))
    """
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    layers = [layer for layer in layers if layer.track_running_stats]
    if not layers:
        return
    kept = [(layer, layer.momentum, copy.deepcopy(dict(layer.named_buffers()))) for layer in layers]
    modes = [(module, module.training) for module in model.modules()]
    place = next(model.parameters(), torch.empty(0)).device
    is_done = False
    try:
        model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean over batches
            layer.train()
        for batch in batches:
            model((batch if isinstance(batch, Tensor) else batch[0]).to(place))
            is_done = True
        if not is_done:
            raise ValueError("batches must not be empty")
    except BaseException:
        is_done = False
        raise
    finally:
        for module, training in modes:
            module.training = training
        for layer, momentum, old in kept:
            layer.momentum = momentum
            if not is_done:
                for name, value in old.items():
                    layer.get_buffer(name).copy_(value)
