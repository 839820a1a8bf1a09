"""The moving figure of the schedules: what a decay does to the expected loss of noisy descent."""

import math

from nnopt.checks import require_fraction, require_integer, require_non_negative

from ._figure import Figure
from ._moving import TEXT, moving_figure, slider

__all__ = ["noise_and_decay"]

# a steep and a flat direction, and the variance of their gradients
_CURVATURES, _NOISE = (1.0, 0.05), (0.04, 0.002)
_LOWEST = -3.5


def noise_and_decay(*, lr: float, decay: float, alt: str, num_steps: int = 120, caption: str = "") -> Figure:
    r"""Draw the expected loss of noisy descent under a rate that falls at the end, with sliders for both.

    .. math::
        \mathbb E\,\theta_{t+1}^2 = (1 - \eta_t \lambda)^2\, \mathbb E\,\theta_t^2 + \eta_t^2 \sigma^2, \qquad
        \eta_t = \eta \min\left(1, \frac{T - t}{d\,T}\right)

    summed over a steep direction and a flat one, both at 1 in the beginning.

    Args:
        lr: η of the drawing and first position of its slider, in [0, 1.9].
        decay: d, share of the steps in which the rate falls, and first position of its slider, in [0, 1].
        alt: what the figure shows; at least four words.
        num_steps: T, at least 2.
        caption: one sentence that answers the figure's question.

    Returns:
        The figure; ``data-nnopt-values`` holds the T + 1 expected losses with the decay, then those without.

    Raises:
        ValueError: an argument is out of range.
    """
    require_non_negative("lr", lr)
    if lr > 1.9:
        raise ValueError(f"lr must be <= 1.9, got {lr!r}")
    require_fraction("decay", decay)
    require_integer("num_steps", num_steps, minimum=2)
    rates = [lr * _multiplier(step, decay, num_steps) for step in range(num_steps)]
    losses, flat = _expected(rates), _expected([lr] * num_steps)

    def x(step: int) -> float:
        return 60 + 540 * step / num_steps

    def y(loss: float) -> float:
        return 110 + 140 * min(max(math.log10(loss) / _LOWEST, 0.0), 1.0)

    def line(name: str, values: list[float], color: str, more: str = "") -> str:
        points = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in enumerate(values))
        return f'<polyline class="{name}" points="{points}" fill="none" stroke="{color}" stroke-width="2" {more}/>'

    top = " ".join(f"{x(step):.1f},{80 - 60 * rate / 1.9:.1f}" for step, rate in enumerate(rates))
    ink = "var(--nnopt-ink, currentColor)"
    axis = f'stroke="{ink}" opacity="0.5"'
    ticks = "".join(
        f'<line x1="54" x2="600" y1="{y(10.0**power):.1f}" y2="{y(10.0**power):.1f}" stroke="{ink}" opacity="0.15"/>'
        f'<text x="48" y="{y(10.0**power) + 5:.1f}" text-anchor="end" {TEXT}>{label}</text>'
        for power, label in ((0, "1"), (-1, "10⁻¹"), (-2, "10⁻²"), (-3, "10⁻³"))
    )
    body = (
        f'{ticks}<line x1="60" x2="600" y1="80" y2="80" {axis}/><line x1="60" x2="600" y1="250" y2="250" {axis}/>'
        f'<text x="48" y="55" text-anchor="end" {TEXT}>rate</text>'
        f'<text x="600" y="284" text-anchor="end" {TEXT}>step {num_steps}</text>'
        f'<text x="600" y="104" text-anchor="end" {TEXT}>expected loss; dashed: without decay</text>'
        f'<polyline class="nnopt-rates" points="{top}" fill="none" stroke="var(--nnopt-c0, #0072b2)" '
        f'stroke-width="2"/>'
        + line("nnopt-flat", flat, ink, 'stroke-dasharray="5 4" opacity="0.7"')
        + line("nnopt-path", losses, "var(--nnopt-c2, #009e73)")
        + f'<text class="nnopt-readout" x="60" y="284" {TEXT}>{_text(losses[-1], flat[-1])}</text>'
    )
    settings = {"curvatures": _CURVATURES, "noise": _NOISE, "num_steps": num_steps, "lowest": _LOWEST}
    sliders = slider("lr", "learning rate η", 0, 1.9, 0.02, lr) + slider(
        "decay", "share of the steps in which it falls", 0, 1, 0.02, decay
    )
    return moving_figure("noise-and-decay", settings, [*losses, *flat], sliders, body, alt, caption)


def _multiplier(step: int, decay: float, num_steps: int) -> float:
    left = num_steps - step
    return min(1.0, left / (decay * num_steps)) if decay > 0 else 1.0


def _expected(rates: list[float]) -> list[float]:
    squares = [1.0] * len(_CURVATURES)
    losses = [sum(_CURVATURES) / 2]
    for rate in rates:
        squares = [(1 - rate * c) ** 2 * s + rate**2 * n for c, n, s in zip(_CURVATURES, _NOISE, squares)]
        losses.append(sum(c * s for c, s in zip(_CURVATURES, squares)) / 2)
    return losses


def _text(decayed: float, flat: float) -> str:
    return f"at the end {decayed:.4f}, without decay {flat:.4f}"
