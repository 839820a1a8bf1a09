"""What all moving figures share: the frame around the drawing, and a slider."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from ._figure import Figure

__all__ = ["TEXT", "WIDTH", "moving_figure", "slider"]

WIDTH, HEIGHT = 640, 300
TEXT = 'font-family="var(--nnopt-font, sans-serif)" font-size="14" fill="var(--nnopt-ink, currentColor)"'


def moving_figure(
    name: str, settings: Mapping[str, Any], values: Any, sliders: str, body: str, alt: str, caption: str
) -> Figure:
    """Wrap a drawing with its sliders, hidden until the script runs."""
    if len(alt.split()) < 4:
        raise ValueError(f"alt must describe what the figure shows, got {alt!r}")
    numbers = escape(json.dumps(values))
    html = (
        f'<div class="nnopt-interactive" data-nnopt-figure="{name}" '
        f'data-nnopt-settings="{escape(json.dumps(dict(settings)))}" data-nnopt-values="{numbers}">'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}" '
        f'style="max-width: {WIDTH}px; width: 100%">{body}</svg>'
        f'<div class="nnopt-controls" hidden>{sliders}</div></div>'
    )
    return Figure(html, alt, caption)


def slider(key: str, label: str, low: float, high: float, step: float, value: float) -> str:
    return (
        f"<label>{escape(label)} <output></output>"
        f'<input type="range" name="{key}" min="{low:g}" max="{high:g}" step="{step:g}" value="{value:g}"></label>'
    )
