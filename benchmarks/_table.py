"""A table of results with what it was measured on, printed and kept beside the benchmarks."""

import datetime
import math
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from nnopt.storage import write_atomic

__all__ = ["keep", "listed"]


def keep(name: str, title: str, rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    """Print a table, first row its head, and write it to ``results/<name>.txt``.

    Args:
        name: of the file.
        title: what was compared, on what.
        rows: cells; the first column is aligned to the left, the others to the right.
        notes: lines below the table, such as the bar and whether it was met.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    text = "\n".join([title, *_machine(), "", *lines, "", *notes]) + "\n"
    print(text, end="")
    write_atomic(Path(__file__).parent / "results" / f"{name}.txt", text.encode())


def listed(lrs: Sequence[float], scores: Sequence[float], best: int, *, digits: int = 2) -> str:
    """Write what each rate brought on the tuning seeds, the chosen one marked."""
    cells = [
        f"{lr:g}: {score:.{digits}f}" if math.isfinite(score) else f"{lr:g}: diverged"
        for lr, score in zip(lrs, scores, strict=True)
    ]
    cells[best] = f"<{cells[best]}>"
    return "  ".join(cells) + ("  (at the edge)" if best in (0, len(lrs) - 1) else "")


def _machine() -> list[str]:
    return [
        f"processor: {_processor()}; {torch.get_num_threads()} thread",
        f"Python {platform.python_version()}, torch {torch.__version__}; {datetime.date.today().isoformat()}",
    ]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
