"""Files that are whole or absent: written beside and renamed, verified before use, loaded without pickle."""

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

__all__ = ["load_state", "read_verified", "save_state", "write_atomic"]


def write_atomic(path: str | Path, write: Callable[[BinaryIO], object] | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Args:
        path: where the file shall be; its folder is created.
        write: the content, or a function that writes it to an open binary file.

    Raises:
        OSError: the disk refused (full, read-only); what stood at ``path`` is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            if isinstance(write, bytes):
                file.write(write)
            else:
                write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; give it the permissions of an ordinary new file
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read_verified(path: str | Path, *, digest: str, algorithm: str = "sha256") -> bytes:
    """Read a file whose content is known.

    Args:
        path: the file.
        digest: hexadecimal checksum that the content must have.
        algorithm: a name that ``hashlib`` knows, such as ``md5``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the content is another one (truncated, an error page, a newer release).
    """
    content = Path(path).read_bytes()
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != digest:
        raise ValueError(
            f"{path} is damaged or another version: {algorithm} must be {digest}, got {found} ({len(content):,} bytes)"
        )
    return content


def save_state(path: str | Path, state: Mapping[str, Any]) -> None:
    """Save tensors and plain Python values with ``torch.save``, whole or not at all.

    Raises:
        OSError: the disk refused; an older file at ``path`` is untouched.
    """
    # torch reports a full disk as a RuntimeError of its zip writer: serialize in memory, write ourselves
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomic(path, buffer.getvalue())


def load_state(path: str | Path, *, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Load what ``save_state`` wrote; nothing in the file can execute code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, damaged, holds objects that are not plain, or is no mapping.
    """
    content = Path(path).read_bytes()
    try:
        # torch does not compare the checksums of the archive it reads
        damaged = zipfile.ZipFile(io.BytesIO(content)).testzip()
        if damaged is not None:
            raise ValueError(f"checksum of {damaged} is wrong")
        state = torch.load(io.BytesIO(content), map_location=map_location, weights_only=True)
    except Exception as error:  # zipfile, pickle and torch each have their own classes for a bad file
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} must hold a mapping, got {type(state).__name__}")
    return state


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets one open a folder."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
