"""Storage: whole files or none, verified reads, loads that cannot execute code."""

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from nnopt.storage import load_state, read_verified, save_state, write_atomic


def test_a_state_survives_the_round_trip(tmp_path: Path) -> None:
    weights = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    save_state(tmp_path / "deep" / "state.pt", {"weights": weights, "step": 3, "names": ["a"]})
    loaded = load_state(tmp_path / "deep" / "state.pt")
    assert torch.equal(loaded["weights"], weights)
    assert (loaded["step"], loaded["names"]) == (3, ["a"])


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def half_written(file: BinaryIO) -> None:
    file.write(b"half")
    full_disk()


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    if where != "write":
        monkeypatch.setattr(os, where, full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, half_written if where == "write" else b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def interrupted(file: BinaryIO) -> None:
        file.write(b"n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, interrupted)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_new_file_has_ordinary_permissions(tmp_path: Path) -> None:
    write_atomic(tmp_path / "ours", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit_of_a_tensor(content: bytes) -> bytes:
    place = content.index(torch.full((64,), 1.5).numpy().tobytes())
    return content[: place + 7] + bytes([content[place + 7] ^ 1]) + content[place + 8 :]


@pytest.mark.parametrize("damage", [truncate, flip_a_bit_of_a_tensor, lambda _: b"", lambda _: b"<html>"])
def test_a_damaged_checkpoint_is_refused_with_its_path(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"weights": torch.full((64,), 1.5)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"state\.pt is not a readable checkpoint"):
        load_state(path)


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch executed",)


def test_nothing_in_a_file_can_execute_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "evil.pkl"):
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            load_state(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_must_be_a_mapping(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="must hold a mapping, got list"):
        load_state(tmp_path / "list.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        load_state(tmp_path / "absent.pt")


def test_verified_read_refuses_other_content(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"hello")
    assert read_verified(tmp_path / "data", digest="5d41402abc4b2a76b9719d911017c592", algorithm="md5") == b"hello"
    (tmp_path / "data").write_bytes(b"hell")
    with pytest.raises(ValueError, match=r"damaged or another version: md5 must be 5d41.*\(4 bytes\)"):
        read_verified(tmp_path / "data", digest="5d41402abc4b2a76b9719d911017c592", algorithm="md5")
