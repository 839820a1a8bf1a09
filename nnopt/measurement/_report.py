"""The table of costs as a notebook shows it: text, HTML, and the numbers themselves."""

from dataclasses import dataclass
from html import escape
from typing import Any, TypeAlias

__all__ = ["Report", "Row"]

Row: TypeAlias = dict[str, str | int | float | None]

_TITLES = {
    "nonzero_parameters": "non-zero",
    "file_bytes": "bytes on disk",
    "macs": "MACs",
    "activation_bytes": "kept for backward (bytes)",
    "forward_bytes": "largest layer (bytes)",
    "output_bytes": "output (bytes)",
}


@dataclass(frozen=True)
class Report:
    """Rows of exact numbers with their caption.

    Args:
        rows: one dictionary per line, all with the same keys.
        caption: what they are of.
        quality_name: title of the column ``quality``.
        is_cost: whether the book's list of costs takes the rows.
    """

    rows: tuple[Row, ...]
    caption: str
    quality_name: str = "quality"
    is_cost: bool = False

    def __str__(self) -> str:
        lines = [self._titles(), *self._cells()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        numbers = self._numeric()
        padded = [
            "  ".join(
                cell.rjust(width) if number else cell.ljust(width) for cell, width, number in zip(line, widths, numbers)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.caption, *padded])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": str(self), "text/html": self._html()}
        if self.is_cost:
            bundle["application/vnd.nnopt.cost+json"] = [dict(row) for row in self.rows]
        return bundle

    def _columns(self) -> list[str]:
        """Return the keys that get a column: quality carries its interval, and is left out if not given."""
        keys = [key for key in self.rows[0] if key not in ("quality_low", "quality_high")]
        given = any(row.get("quality") is not None for row in self.rows)
        return [key for key in keys if key != "quality" or given]

    def _numeric(self) -> list[bool]:
        return [all(not isinstance(row[key], str) for row in self.rows) for key in self._columns()]

    def _titles(self) -> list[str]:
        titles = {**_TITLES, "quality": self.quality_name}
        return [titles.get(key, key) for key in self._columns()]

    def _cells(self) -> list[list[str]]:
        return [[_cell(row, key) for key in self._columns()] for row in self.rows]

    def _html(self) -> str:
        head = "".join(f'<th scope="col">{escape(title)}</th>' for title in self._titles())
        body = "".join(
            f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
            for first, *rest in self._cells()
        )
        return (
            f'<table class="nnopt-cost"><caption><span>{escape(self.caption)}</span></caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


def _cell(row: Row, key: str) -> str:
    value = row[key]
    if isinstance(value, float):
        interval = row.get("quality_low") is not None and key == "quality"
        return f"{value:.3g}" + (f" [{row['quality_low']:.3g}, {row['quality_high']:.3g}]" if interval else "")
    if isinstance(value, int):
        return f"{value:,}"
    return value or ""
