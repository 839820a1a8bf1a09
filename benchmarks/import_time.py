"""What ``import nnopt`` costs beyond the start of Python: interleaved fresh processes.

    python benchmarks/import_time.py

Exit status 1 if the median of the differences is not below 50 ms.
"""

import statistics
import subprocess
import sys

import torch
from _table import keep

from nnopt.measurement import measure, median_interval

NUM_BLOCKS, BAR_S = 20, 0.050
STATEMENTS = {"nothing": "pass", "import nnopt": "import nnopt", "nothing, again": "pass"}


def started(statement: str) -> None:
    subprocess.run([sys.executable, "-c", statement], check=True)


def main() -> int:
    generator = torch.Generator().manual_seed(0)
    names = list(STATEMENTS)
    for name in names:  # writes the byte code and warms the disk's cache
        started(STATEMENTS[name])
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(NUM_BLOCKS):
        for place in torch.randperm(len(names), generator=generator).tolist():
            times[names[place]].append(measure(lambda: started(STATEMENTS[names[place]])))  # noqa: B023
    rows = [["a fresh Python with", "ms", "ms beyond nothing", "95 % interval"]]
    rows.append(["nothing", f"{1000 * statistics.median(times['nothing']):.1f}", "", ""])
    beyond = {}
    for name in names[1:]:
        differences = [a - b for a, b in zip(times[name], times["nothing"], strict=True)]
        low, high = median_interval(differences)
        beyond[name] = statistics.median(differences)
        rows.append(
            [
                name,
                f"{1000 * statistics.median(times[name]):.1f}",
                f"{1000 * beyond[name]:.1f}",
                f"[{1000 * low:.1f}, {1000 * high:.1f}]",
            ]
        )
    is_met = beyond["import nnopt"] < BAR_S
    keep(
        "import_time",
        f"The start of Python with and without nnopt, {NUM_BLOCKS} interleaved blocks of fresh processes",
        rows,
        [f"bar: below {1000 * BAR_S:g} ms, {'met' if is_met else 'missed'}"],
    )
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
