"""The result of a timing comparison as a notebook shows it."""

from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["Comparison", "TimeRatio"]


@dataclass(frozen=True)
class TimeRatio:
    """The time of one function as a multiple of the baseline's.

    Args:
        name: of the function.
        seconds: median time of a call.
        ratio: median over the blocks of time / baseline's time: below 1 is faster.
        low: lower end of its 95 % interval.
        high: upper end.
        block_ratios: the ratio in every block.
        conclusive: whether the baseline agreed with itself in the same run.
    """

    name: str
    seconds: float
    ratio: float
    low: float
    high: float
    block_ratios: tuple[float, ...]
    conclusive: bool

    @property
    def num_blocks(self) -> int:
        """How often everything took its turn."""
        return len(self.block_ratios)


@dataclass(frozen=True)
class Comparison:
    """What :func:`nnopt.measurement.timing.compare` returns; ``comparison[name]`` is one ratio.

    Args:
        baseline: what the others are divided by.
        ratios: one per function, in the order given, the baseline's own being 1.
        control: the baseline against itself in the same run.
    """

    baseline: str
    ratios: tuple[TimeRatio, ...]
    control: TimeRatio

    def __getitem__(self, name: str) -> TimeRatio:
        for ratio in self.ratios:
            if ratio.name == name:
                return ratio
        raise KeyError(name)

    @property
    def conclusive(self) -> bool:
        """Tell whether the control is within ± 5 %, so that the machine was quiet enough to compare on."""
        return self.control.conclusive

    @property
    def num_blocks(self) -> int:
        """How often everything took its turn."""
        return self.control.num_blocks

    @property
    def status(self) -> str:
        """``conclusive``, or ``inconclusive`` where the control failed."""
        return "conclusive" if self.conclusive else "inconclusive"

    def __str__(self) -> str:
        lines = [self._head(), *self._cells()]
        widths = [max(len(line[i]) for line in lines) for i in range(4)]
        table = [
            "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))]).rstrip()
            for line in lines
        ]
        return "\n".join([*table, self._verdict()])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {
            "text/plain": str(self),
            "text/html": self._html(),
            "application/vnd.nnopt.timing+json": [
                {
                    "model": ratio.name,
                    "baseline": self.baseline,
                    "seconds": ratio.seconds,
                    "latency_ratio": ratio.ratio,
                    "low": ratio.low,
                    "high": ratio.high,
                    "control": self.control.ratio,
                    "status": self.status,
                    "num_blocks": self.num_blocks,
                }
                for ratio in self.ratios
            ],
        }

    def _unit(self) -> tuple[str, float]:
        """Return the unit of time that suits the baseline, and its length in seconds."""
        seconds = self[self.baseline].seconds
        return ("s", 1.0) if seconds >= 1 else ("ms", 1e-3) if seconds >= 1e-3 else ("µs", 1e-6)

    def _head(self) -> tuple[str, str, str, str]:
        return "", f"time, {self._unit()[0]}", "ratio", "95 % interval"

    def _cells(self) -> list[tuple[str, str, str, str]]:
        second = 1 / self._unit()[1]
        cells = [
            (r.name, _three_digits(r.seconds * second), _ratio(r.ratio), f"[{_ratio(r.low)}, {_ratio(r.high)}]")
            for r in (*self.ratios, self.control)
        ]
        return [(*c[:3], "") if c[0] == self.baseline else c for c in cells]

    def _verdict(self) -> str:
        if self.conclusive:
            return f"time / time of {self.baseline}, {self.num_blocks} blocks; the control is within 5 % of 1"
        return "inconclusive on this machine: the baseline differs from itself by more than 5 %"

    def _html(self) -> str:
        head = "".join(f'<th scope="col">{t}</th>' for t in self._head())
        body = "".join(
            f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(c)}</td>" for c in rest)}</tr>'
            for first, *rest in self._cells()
        )
        return (
            f'<table class="nnopt-timing"><caption><span>{escape(self._verdict())}</span></caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


def _three_digits(value: float) -> str:
    """Write a positive number with three digits, or all those before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 10 else _three_digits(value)
