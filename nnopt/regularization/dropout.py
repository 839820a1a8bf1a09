"""Dropout and stochastic depth, with randomness that is passed in. Chapter: ``regularization/dropout``."""

import torch
from torch import Tensor, nn

from nnopt.checks import require_dtype, require_fraction, require_type

__all__ = ["DropPath", "Dropout", "apply_keep_mask", "drop_path", "dropout", "keep_mask"]


def keep_mask(
    inputs: Tensor,
    drop_probability: float,
    *,
    per_row: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draw which values are kept: each one with probability 1 − p, all of them independently.

    .. math:: m_{ij} \sim \mathrm{Bernoulli}(1 - p)

    Args:
        inputs: gives shape and device; (N, ...) with ``per_row``. Its values are not read.
        drop_probability: p in [0, 1].
        per_row: one draw for each of the N rows instead of one for each value.
        generator: draws on its own device, and the mask is moved to that of ``inputs``: one on the CPU gives
            every device the same mask. None draws from torch's global generator of the inputs' device.

    Returns:
        bool, True keeps; the shape of ``inputs``, or (N, 1, ..., 1) with ``per_row``.

    Raises:
        ValueError: p is not in [0, 1] or NaN, or ``inputs`` has no rows to draw for.
        TypeError: ``inputs`` is no tensor, p no number or ``generator`` no generator.

    Example:
        >>> keep_mask(torch.ones(2, 3), 0.0)
        tensor([[True, True, True],
                [True, True, True]])
    """
    _require(inputs, drop_probability, generator)
    if per_row and inputs.ndim == 0:
        raise ValueError("inputs must have rows, got a single number")
    shape = (len(inputs), *[1] * (inputs.ndim - 1)) if per_row else inputs.shape
    device = inputs.device if generator is None else generator.device
    # new_empty and the functional draw: under vmap every copy gets a mask of its own
    like = inputs.new_empty(shape, dtype=torch.bool, device=device)
    mask: Tensor = torch.bernoulli(like, 1.0 - drop_probability, generator=generator)
    return mask.to(inputs.device)


def apply_keep_mask(inputs: Tensor, mask: Tensor, drop_probability: float) -> Tensor:
    r"""Set what is not kept to zero and divide the rest by the probability of being kept.

    .. math:: y = \frac{m \odot x}{1 - p}, \qquad \mathbb{E}_m[y] = x

    Args:
        inputs: any shape, floating point; its gradient is masked and scaled alike.
        mask: bool, True keeps; as many dimensions, each of the same size or of size 1.
        drop_probability: p in [0, 1] that the mask was drawn with; at 1 everything is 0.

    Returns:
        Same shape and dtype; the arguments are unchanged.

    Raises:
        ValueError: p is not in [0, 1] or NaN, or the shapes do not fit.
        TypeError: ``inputs`` is not floating point, or ``mask`` is not bool.

    Source:
        Equal to torch's dropout given its mask. Autograd keeps one byte a value (the bool mask), where
        torch's dropout on the CPU keeps a mask of the inputs' type.

    Example:
        >>> apply_keep_mask(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, False, True]), 0.5)
        tensor([2., 0., 6.])
    """
    _require(inputs, drop_probability, None)
    require_dtype("mask", mask, torch.bool)
    if mask.ndim != inputs.ndim or any(m not in (1, n) for m, n in zip(mask.shape, inputs.shape)):
        raise ValueError(
            f"mask must have the shape of inputs, {tuple(inputs.shape)}, or 1 in its places, got {tuple(mask.shape)}"
        )
    scale = 1.0 / (1.0 - drop_probability) if drop_probability < 1 else 0.0
    return (inputs * mask).mul_(scale)


def dropout(inputs: Tensor, drop_probability: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Drop values, as a network in training does: each one on its own, the rest scaled up.

    Args:
        inputs: any shape, floating point.
        drop_probability: p in [0, 1]; at 0 nothing is drawn and ``inputs`` itself comes back, as in torch.
        generator: as in :func:`keep_mask`.

    Returns:
        Same shape and dtype; the mean over masks is ``inputs``.

    Raises:
        ValueError: p is not in [0, 1] or NaN.
        TypeError: ``inputs`` is not a floating point tensor, or ``generator`` no generator.

    Convention:
        Inverted dropout: all scaling happens in training, so that evaluation is the identity. The paper keeps
        the values in training and multiplies the weights by 1 − p at test time.

    Source:
        Srivastava et al. (2014), section 10 (multiplication of the kept values). On the CPU equal to
        ``torch.nn.functional.dropout`` from the same state of the generator.

    Example:
        >>> dropped = dropout(torch.ones(1000), 0.75, generator=torch.Generator().manual_seed(0))
        >>> dropped.unique()
        tensor([0., 4.])
    """
    _require(inputs, drop_probability, generator)
    if drop_probability == 0:
        return inputs
    return apply_keep_mask(inputs, keep_mask(inputs, drop_probability, generator=generator), drop_probability)


def drop_path(inputs: Tensor, drop_probability: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Drop whole rows, one draw for each: with it a residual branch is skipped, ``x + drop_path(f(x), p)``.

    Args:
        inputs: (N, ...), floating point: what a branch returns for N examples.
        drop_probability: p in [0, 1]; at 0 nothing is drawn and ``inputs`` itself comes back.
        generator: as in :func:`keep_mask`.

    Returns:
        Same shape and dtype; the mean over masks is ``inputs``.

    Raises:
        ValueError: p is not in [0, 1] or NaN, or ``inputs`` has no rows.
        TypeError: ``inputs`` is not a floating point tensor, or ``generator`` no generator.

    Convention:
        The branch is computed and then dropped, so that no time is saved. One draw for each example, as in
        ``torchvision.ops.stochastic_depth(…, mode="row")``; the paper draws once for the batch (``"batch"``).

    Source:
        Huang et al. (2016), without their scaling at test time.

    Example:
        >>> drop_path(torch.ones(4, 2), 1.0).sum()
        tensor(0.)
    """
    _require(inputs, drop_probability, generator)
    if inputs.ndim == 0:
        raise ValueError("inputs must have rows, got a single number")
    if drop_probability == 0:
        return inputs
    mask = keep_mask(inputs, drop_probability, per_row=True, generator=generator)
    return apply_keep_mask(inputs, mask, drop_probability)


class _Dropping(nn.Module):
    """What both layers have: p, and where their randomness comes from."""

    def __init__(self, drop_probability: float = 0.5, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        require_fraction("drop_probability", drop_probability)
        require_type("generator", generator, (torch.Generator, type(None)))
        self.drop_probability = float(drop_probability)
        self.generator = generator

    def extra_repr(self) -> str:
        return f"drop_probability={self.drop_probability:g}"


class Dropout(_Dropping):
    """Drop values in training mode, do nothing in evaluation mode: :func:`dropout` as a layer.

    Args:
        drop_probability: p in [0, 1].
        generator: where the masks come from. None is torch's global generator, which ``training.fit`` seeds,
            keeps in its checkpoints and puts back; a generator of your own is in no checkpoint.

    Raises:
        ValueError: p is not in [0, 1] or NaN.
        TypeError: p is no number, or ``generator`` no generator.

    Convention:
        ``torch.nn.Dropout`` with an optional generator. It has no parameters and no buffers.

    Example:
        >>> layer = Dropout(0.5).eval()
        >>> layer(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``inputs`` with values dropped in training mode, and ``inputs`` itself in evaluation mode."""
        return dropout(inputs, self.drop_probability, generator=self.generator) if self.training else inputs


class DropPath(_Dropping):
    """Drop rows in training mode, do nothing in evaluation mode: :func:`drop_path` as a layer.

    The last layer of a residual branch; torch has none.

    Args:
        drop_probability: p in [0, 1].
        generator: as in :class:`Dropout`.

    Raises:
        ValueError: p is not in [0, 1] or NaN.
        TypeError: p is no number, or ``generator`` no generator.

    Example:
        >>> DropPath(0.2)
        DropPath(drop_probability=0.2)
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``inputs`` with rows dropped in training mode, and ``inputs`` itself in evaluation mode."""
        return drop_path(inputs, self.drop_probability, generator=self.generator) if self.training else inputs


def _require(inputs: object, drop_probability: object, generator: object) -> None:
    require_dtype("inputs", inputs, None)
    require_fraction("drop_probability", drop_probability)
    require_type("generator", generator, (torch.Generator, type(None)))
