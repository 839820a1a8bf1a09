"""Seeds by hash: one child per run, and separate generators inside it.

Every run of an experiment is child number ``index`` of ``SeedSequence([offset, crc32(experiment),
version, stream])``. So seed 3 alone equals seed 3 inside any stack, no two streams or offsets share a
run, and a technique that draws more noise does not move the initialization. Adding 11 to seeds 0 to 7
would have reused most of them.
"""

import os
import zlib
from dataclasses import dataclass

import numpy as np
import torch

from .checks import require_integer, require_non_empty, require_one_of
from .types import DeviceLike

__all__ = ["PURPOSES", "STREAMS", "Seed", "current_offset", "current_stream", "seeds"]

STREAMS = ("tune", "pilot", "report")
"""What runs are for; no two streams share one."""

PURPOSES = ("split", "initialization", "batches", "noise")
"""What the randomness of one run is split into."""


def current_offset() -> int:
    """Return ``NNOPT_SEED_OFFSET`` (default 0), read at call time.

    Raises:
        ValueError: it is not an integer of at least 0.
    """
    text = os.environ.get("NNOPT_SEED_OFFSET", "0")
    if not text.isdecimal():
        raise ValueError(f"NNOPT_SEED_OFFSET must be an integer >= 0, got {text!r}")
    return int(text)


def current_stream() -> str:
    """Return ``NNOPT_SEED_STREAM`` (default ``report``), read at call time.

    Raises:
        ValueError: it is none of ``STREAMS``.
    """
    stream = os.environ.get("NNOPT_SEED_STREAM", "report")
    require_one_of("NNOPT_SEED_STREAM", stream, STREAMS)
    return stream


@dataclass(frozen=True)
class Seed:
    """The randomness of one run, split by purpose.

    Args:
        experiment: name that the hash starts from.
        version: grows when the experiment changes.
        stream: one of ``STREAMS``.
        offset: 0 in the published book, others in re-runs.
        index: number of the run, from 0.
    """

    experiment: str
    version: int
    stream: str
    offset: int
    index: int

    def __post_init__(self) -> None:
        require_non_empty("experiment", self.experiment)
        require_integer("version", self.version, minimum=1)
        require_one_of("stream", self.stream, STREAMS)
        require_integer("offset", self.offset, minimum=0)
        require_integer("index", self.index, minimum=0)

    def integer(self, purpose: str) -> int:
        """Return the 63-bit integer of this run for ``purpose`` (one of ``PURPOSES``).

        Raises:
            ValueError: ``purpose`` is unknown.
        """
        require_one_of("purpose", purpose, PURPOSES)
        root = [self.offset, zlib.crc32(self.experiment.encode()), self.version, STREAMS.index(self.stream)]
        sequence = np.random.SeedSequence(root, spawn_key=(self.index, PURPOSES.index(purpose)))
        return int(sequence.generate_state(1, np.uint64)[0] >> 1)

    def generator(self, purpose: str, device: DeviceLike = "cpu") -> torch.Generator:
        """Return a fresh generator for ``purpose``; two calls give two equal ones.

        Draw initial weights and batch orders on the CPU: then both devices see the same ones.

        Raises:
            ValueError: ``purpose`` is unknown.

        Example:
            >>> seed = seeds("doc", 1)[0]
            >>> a, b = (torch.rand(2, generator=seed.generator("noise")) for _ in range(2))
            >>> bool((a == b).all())
            True
        """
        return torch.Generator(device=device).manual_seed(self.integer(purpose))


def seeds(
    experiment: str,
    num_runs: int,
    *,
    version: int = 1,
    stream: str | None = None,
    offset: int | None = None,
) -> list[Seed]:
    """Draw the seeds of an experiment.

    Args:
        experiment: its name, in a book the claim's id.
        num_runs: how many, at least 1.
        version: grows when the experiment changes, so that it gets fresh seeds.
        stream: ``tune``, ``pilot`` or ``report``; None asks ``current_stream()``.
        offset: None asks ``current_offset()``.

    Returns:
        Seeds 0 to ``num_runs`` - 1; a longer list starts with the shorter one.

    Raises:
        ValueError: an argument is out of range.
        TypeError: a count is not an integer.
    """
    require_integer("num_runs", num_runs, minimum=1)
    stream = current_stream() if stream is None else stream
    offset = current_offset() if offset is None else offset
    return [Seed(experiment, version, stream, offset, index) for index in range(num_runs)]
