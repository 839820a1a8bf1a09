"""Files of optional data sets: found, verified and, only when asked, downloaded."""

import gzip
import hashlib
import http.client
import math
import os
import struct
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from nnopt.checks import require_positive
from nnopt.storage import write_atomic

__all__ = ["CIFAR10", "FASHION_MNIST", "File", "Source", "as_tensor", "find", "parse_idx", "read_plain"]

_CHUNK_BYTES = 1 << 16
# A download slower than this for its whole length is given up: 170 MB then take at most 90 minutes.
_MIN_BYTES_PER_S = 32_768
_verified: set[tuple[str, int, int, str]] = set()


@dataclass(frozen=True)
class File:
    """One file as its publisher released it."""

    name: str
    num_bytes: int
    md5: str


@dataclass(frozen=True)
class Source:
    """A published data set: its parts, each as the files that hold it, the last one the downloadable one."""

    title: str
    folder: str
    parts: tuple[tuple[File, ...], ...]
    url: str
    alternative: str


_OFFLINE = "Without any file: nnopt.data.digits()."
FASHION_MNIST = Source(
    title="Fashion-MNIST",
    folder="FashionMNIST/raw",
    # the release of Zalando Research, unpacked as torchvision leaves it, and as published
    parts=(
        (
            File("train-images-idx3-ubyte", 47_040_016, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
            File("train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        ),
        (
            File("train-labels-idx1-ubyte", 60_008, "9018921c3c673c538a1fc5bad174d6f9"),
            File("train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
        ),
        (
            File("t10k-images-idx3-ubyte", 7_840_016, "8181f5470baa50b63fa0f6fddb340f0a"),
            File("t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
        ),
        (
            File("t10k-labels-idx1-ubyte", 10_008, "15d484375f8d13e6eb1aabb0c3f46965"),
            File("t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    ),
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    alternative=_OFFLINE,
)
# the binary archive: the one for Python holds pickles, which can execute code
CIFAR10 = Source(
    title="CIFAR-10",
    folder="",
    parts=((File("cifar-10-binary.tar.gz", 170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),),),
    url="https://www.cs.toronto.edu/~kriz/",
    alternative=_OFFLINE,
)


def find(source: Source, part: int, *, root: str | Path | None, download: bool, timeout_s: float = 20.0) -> Path:
    """Return the path of a verified file of ``source``.

    Raises:
        FileNotFoundError: it is nowhere and ``download`` is False.
        ValueError: a file is there, but truncated or another one.
        ConnectionError: the server was silent, too slow, or sent something else.
        OSError: the disk refused the downloaded file.
    """
    require_positive("timeout_s", timeout_s)
    folders = [base / source.folder for base in _roots(root)]
    for folder in folders:
        for file in source.parts[part]:
            if (folder / file.name).is_file():
                _verify(source, folder / file.name, file)
                return folder / file.name
    if not download:
        raise FileNotFoundError(_message(source, "is not on this machine", folders))
    file = source.parts[part][-1]
    _download(source, file, folders, timeout_s=timeout_s)
    return folders[0] / file.name


def read_plain(path: Path) -> bytes:
    """Return a file's content, decompressed if its name ends in ``.gz``."""
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def parse_idx(content: bytes, name: str) -> Tensor:
    """Return the unsigned bytes of an IDX file as a tensor of its shape.

    Two zero bytes, the type (8 = unsigned byte), the number of dimensions, each dimension as a big-endian
    32-bit integer, then the values, the last dimension fastest.

    Raises:
        ValueError: the header is another one, or the values are too few or too many.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{name} must be an IDX file of unsigned bytes, got the start {content[:4]!r}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{name} must have a header of {start} bytes, got {len(content)} bytes in all")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if math.prod(shape) != len(content) - start:
        raise ValueError(f"{name} must hold {math.prod(shape):,} values, got {len(content) - start:,}")
    return as_tensor(content[start:]).reshape(shape)


def as_tensor(content: bytes) -> Tensor:
    """Return bytes as a uint8 tensor of their own; no bytes are an empty tensor."""
    if not content:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _roots(root: str | Path | None) -> list[Path]:
    """Return the folders to look in, the one to download to first."""
    named = [root, os.environ.get("NNOPT_DATA")]
    return [Path(folder).expanduser().absolute() for folder in named if folder] + [_user_cache() / "nnopt"]


def _user_cache() -> Path:
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")


def _message(source: Source, problem: str, folders: list[Path]) -> str:
    names = ", ".join(" or ".join(file.name for file in part) for part in source.parts)
    where = " or ".join(map(str, folders))
    return (
        f"{source.title} {problem}. Expected in {where}: {names}. Put the files there, set NNOPT_DATA to the "
        f"folder above {source.folder or 'them'}, or pass download=True. {source.alternative}"
    )


def _verify(source: Source, path: Path, file: File) -> None:
    """Compare size and checksum; a file that did not change since it passed is not read again."""
    state = path.stat()
    key = (str(path), state.st_size, state.st_mtime_ns, file.md5)
    if key in _verified:
        return
    found = f"{state.st_size:,} bytes"
    if state.st_size == file.num_bytes:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if digest == file.md5:
            _verified.add(key)
            return
        found += f" with md5 {digest}"
    problem = (
        f"has a damaged file {path}: it must have {file.num_bytes:,} bytes with md5 {file.md5}, got {found}; "
        "delete or replace it"
    )
    raise ValueError(_message(source, problem, [path.parent]))


def _download(
    source: Source,
    file: File,
    folders: list[Path],
    *,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Download one file beside its place, compare it, and only then give it its name."""
    url = source.url + file.name
    path = folders[0] / file.name

    def write(stream: BinaryIO) -> None:
        digest = hashlib.md5(usedforsecurity=False)
        num_bytes = 0
        for chunk in _receive(url, file, timeout_s=timeout_s, clock=clock):
            stream.write(chunk)
            digest.update(chunk)
            num_bytes += len(chunk)
        if num_bytes != file.num_bytes or digest.hexdigest() != file.md5:
            least = "at least " if num_bytes > file.num_bytes else ""
            raise ConnectionError(
                f"the server must send {file.num_bytes:,} bytes with md5 {file.md5}, "
                f"got {least}{num_bytes:,} with md5 {digest.hexdigest()}"
            )

    try:
        write_atomic(path, write)
    except OSError as error:
        kind = ConnectionError if isinstance(error, ConnectionError) else OSError
        problem = f"could not be downloaded from {url} to {path} ({error}); nothing was stored"
        raise kind(_message(source, problem, folders)) from error


def _receive(url: str, file: File, *, timeout_s: float, clock: Callable[[], float]) -> Iterator[bytes]:
    """Yield what a server sends, at most a chunk too much; every failure becomes a ConnectionError."""
    from tqdm import tqdm

    deadline = clock() + timeout_s + file.num_bytes / _MIN_BYTES_PER_S
    received = 0
    try:
        with (
            urllib.request.urlopen(url, timeout=timeout_s) as response,
            tqdm(total=file.num_bytes, desc=file.name, unit="B", unit_scale=True, disable=None) as bar,
        ):
            # read1 returns after one packet, so that a trickle reaches the deadline
            while received <= file.num_bytes and (chunk := response.read1(_CHUNK_BYTES)):
                if clock() > deadline:
                    raise TimeoutError(f"slower than {_MIN_BYTES_PER_S:,} bytes/s, {received:,} bytes arrived")
                received += len(chunk)
                bar.update(len(chunk))
                yield chunk
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the server's answer, and with it the connection
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
