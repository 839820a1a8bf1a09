"""Under which conditions chapters run, and the key that tells one set of conditions from another."""

import hashlib
import importlib.metadata
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from nnopt.seeding import STREAMS

__all__ = ["Conditions", "commit", "published", "site_key", "versions"]

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "matplotlib", "tqdm", "ipykernel")


@dataclass(frozen=True)
class Conditions:
    """What a run of the book depends on besides its files.

    Args:
        offset: seed offset; 0 is the published book.
        stream: seed stream (``report``, or ``pilot``).
        device: ``cpu`` or ``cuda``.
        threads: threads of each kernel.
    """

    offset: int = 0
    stream: str = "report"
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.offset < 0:
            raise ValueError(f"offset must be >= 0, got {self.offset}")
        if self.stream not in STREAMS:
            raise ValueError(f"stream must be one of {', '.join(STREAMS)}, got {self.stream!r}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu or cuda, got {self.device!r}")
        if self.threads < 1:
            raise ValueError(f"threads must be >= 1, got {self.threads}")

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a kernel."""
        variables = {
            **os.environ,
            "NNOPT_SEED_OFFSET": str(self.offset),
            "NNOPT_SEED_STREAM": self.stream,
            "NNOPT_DEVICE": self.device,
            "OMP_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONHASHSEED": "0",
        }
        # chapters run in folders of their own: relative paths would point elsewhere in each
        if os.environ.get("NNOPT_DATA"):
            variables["NNOPT_DATA"] = str(Path(os.environ["NNOPT_DATA"]).absolute())
        if os.environ.get("PYTHONPATH"):
            parts = os.environ["PYTHONPATH"].split(os.pathsep)
            variables["PYTHONPATH"] = os.pathsep.join(str(Path(part).absolute()) for part in parts if part)
        return variables

    def key(self, root: Path) -> str:
        """Return the hash of all that a chapter's output depends on, itself excepted.

        It holds no absolute path and no time: two clones on one machine have the same key. The embedded data
        are versioned by scikit-learn's and Python's versions, the splits by the sources.
        """
        digest = hashlib.sha256()

        def add(name: str, content: bytes) -> None:
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)

        add("conditions", repr(self).encode())
        add("python", sys.version.encode())
        for name, version in versions().items():
            add(name, version.encode())
        for path in [root / "constraints.txt", *sorted((root / "nnopt").rglob("*.py"))]:
            add(path.relative_to(root).as_posix(), path.read_bytes() if path.exists() else b"")
        return digest.hexdigest()


def published() -> Conditions:
    """Return the conditions of the published book, on the device that ``NNOPT_DEVICE`` names.

    Raises:
        ValueError: the environment asks for other seeds; those belong to ``make reseed`` and ``make pilot``.
    """
    offset = os.environ.get("NNOPT_SEED_OFFSET", "0") or "0"
    stream = os.environ.get("NNOPT_SEED_STREAM", "report") or "report"
    if offset != "0":
        raise ValueError(f"NNOPT_SEED_OFFSET must be 0 for the book and its tests, got {offset!r}: see make reseed")
    if stream != "report":
        raise ValueError(f"NNOPT_SEED_STREAM must be report for the book and its tests, got {stream!r}: see make pilot")
    return Conditions(device=device())


def device() -> str:
    """Return ``cpu``, or ``cuda`` where ``NNOPT_DEVICE`` asks for it; ``auto`` is for readers' kernels."""
    name = os.environ.get("NNOPT_DEVICE", "cpu") or "cpu"
    return "cpu" if name == "auto" else name


def site_key(root: Path) -> str:
    """Return the hash of everything that the pages are made from, to tell whether a built site is today's."""
    digest = hashlib.sha256(published().key(root).encode())
    files = [root / "_config.yml", root / "_toc.yml", *sorted((root / "book").rglob("*"))]
    for path in files:
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the installed versions of the libraries that outputs depend on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def commit(root: Path, *, length: int = 10) -> str:
    """Return the commit of the working tree, with ``+`` if it has changes, or ``unknown`` without git."""

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return result.stdout.strip()

    try:
        name = git("rev-parse", f"--short={length}", "HEAD")
        return name + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
