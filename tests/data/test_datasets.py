import gzip
import hashlib
import importlib
import io
import os
import sysconfig
import tarfile
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nnopt.data import (
    Splits,
    cifar10,
    digits,
    fashion_mnist,
    photographs,
    pixels,
    stdlib_bytes,
    stratified_split,
    windows,
)

datasets = importlib.import_module("nnopt.data.datasets")
files = importlib.import_module("nnopt.data._files")


def digest(*tensors: Tensor) -> str:
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def parts(splits: Splits) -> list[tuple[Tensor, Tensor]]:
    return [splits.train, splits.validation, splits.test]


# digits


def test_the_published_random_split_never_changes() -> None:
    # sha256 of the pixels and labels of train, validation and test, in this order
    splits = digits()
    assert [len(labels) for _, labels in parts(splits)] == [1050, 297, 450]
    assert [digest(*part)[:16] for part in parts(splits)] == [
        "d24d1619d8ec798b",
        "0e866a562a1e2bf8",
        "169844ab80f41729",
    ]


def test_the_writers_split_is_the_file_in_its_order() -> None:
    from sklearn.datasets import load_digits

    splits = digits("writers")
    inputs = torch.cat([part[0] for part in parts(splits)])
    targets = torch.cat([part[1] for part in parts(splits)])
    data = load_digits()
    assert [len(labels) for _, labels in parts(splits)] == [1000, 297, 500]
    assert torch.equal(inputs[:, 0] * 16, torch.tensor(data.images, dtype=torch.float32))
    assert targets.tolist() == data.target.tolist()
    assert [digest(*part)[:16] for part in parts(splits)] == [
        "debfcf5dc7537a40",
        "0ab49f106757e5be",
        "e38557854d212c66",
    ]


def test_the_digits_are_the_same_if_scikit_learn_keeps_them_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = importlib.import_module("nnopt.data._digits")
    ours = reader.load_digits.__wrapped__()
    monkeypatch.setattr(reader, "find_spec", lambda name: None)
    assert all(map(torch.equal, ours, reader.load_digits.__wrapped__()))


def test_digits_are_float_images_in_the_unit_interval_with_integer_labels() -> None:
    for inputs, targets in parts(digits()):
        assert inputs.dtype == torch.float32
        assert targets.dtype == torch.int64
        assert inputs.shape[1:] == (1, 8, 8)
        assert (float(inputs.min()), float(inputs.max())) == (0.0, 1.0)
        assert targets.unique().tolist() == list(range(10))


def test_another_seed_draws_another_split_of_the_same_rows_and_sizes() -> None:
    published, other = digits(), digits(split_seed=2**62 + 1)
    assert [len(b) for _, b in parts(other)] == [len(b) for _, b in parts(published)]
    assert not torch.equal(other.test[0], published.test[0])

    def all_rows(splits: Splits) -> list[bytes]:
        return sorted(row.numpy().tobytes() for part in parts(splits) for row in part[0])

    assert all_rows(other) == all_rows(published)
    assert digest(*digits(split_seed=2**62 + 1).test) == digest(*other.test)


def test_changing_a_returned_tensor_does_not_change_the_next_call() -> None:
    before = digest(*digits("writers").train)
    digits("writers").train[0].zero_()
    assert digest(*digits("writers").train) == before


def test_digits_refuses_unknown_splits_and_seeds_for_writers() -> None:
    with pytest.raises(ValueError, match="split must be one of 'random', 'writers', got 'people'"):
        digits("people")
    with pytest.raises(ValueError, match="split_seed must be 0 for split 'writers', got 3"):
        digits("writers", split_seed=3)
    with pytest.raises(TypeError, match="split_seed must be an integer, got float"):
        digits(split_seed=1.0)  # type: ignore[arg-type]


# stratified splits


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    fractions=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
    seed=st.integers(-(2**63), 2**63),
)
def test_a_stratified_split_is_a_partition_with_every_class_in_proportion(
    counts: list[int], fractions: tuple[float, float], seed: int
) -> None:
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    num_rows = len(targets)
    num_validation, num_test = (int(fraction * num_rows) for fraction in fractions)
    train, validation, test = stratified_split(
        targets, num_validation=num_validation, num_test=num_test, split_seed=seed
    )
    assert (len(validation), len(test)) == (num_validation, num_test)
    assert torch.equal(torch.cat([train, validation, test]).sort().values, torch.arange(num_rows))
    for label, count in enumerate(counts):
        share = int((targets[test] == label).sum())
        assert abs(share - num_test * count / num_rows) <= 1.5


def test_a_hand_worked_stratified_split_takes_one_of_each_class() -> None:
    # 4 rows of class 0, 2 of class 1: ranks 1/8 3/8 5/8 7/8 and 1/4 3/4, so test = one 0 and one 1
    train, validation, test = stratified_split(
        torch.tensor([0, 1, 0, 0, 1, 0]), num_validation=1, num_test=2, split_seed=9
    )
    targets = torch.tensor([0, 1, 0, 0, 1, 0])
    assert sorted(targets[test].tolist()) == [0, 1]
    assert targets[validation].tolist() == [0]
    assert sorted(targets[train].tolist()) == [0, 0, 1]


def test_a_stratified_split_refuses_impossible_sizes_and_other_targets() -> None:
    with pytest.raises(ValueError, match=r"num_validation \+ num_test must be <= 5 rows, got 2 \+ 4"):
        stratified_split(torch.arange(5), num_validation=2, num_test=4)
    with pytest.raises(ValueError, match="num_test must be >= 0, got -1"):
        stratified_split(torch.arange(5), num_validation=2, num_test=-1)
    with pytest.raises(ValueError, match="targets must be integers"):
        stratified_split(torch.zeros(5), num_validation=1, num_test=1)
    with pytest.raises(ValueError, match="targets must be integers"):
        stratified_split(torch.zeros(5, 2, dtype=torch.int64), num_validation=1, num_test=1)
    with pytest.raises(TypeError, match="targets must be Tensor, got list"):
        stratified_split([0, 1], num_validation=1, num_test=1)  # type: ignore[arg-type]


# text


def test_the_corpus_is_the_standard_library_cut_between_files() -> None:
    corpus = stdlib_bytes()
    assert 8e6 < len(corpus.train) + len(corpus.validation) + len(corpus.test) < 14e6
    assert corpus.train.dtype == torch.uint8
    assert min(len(corpus.validation), len(corpus.test)) > 3e5
    text = bytes(corpus.train.numpy()) + bytes(corpus.validation.numpy()) + bytes(corpus.test.numpy())
    root = Path(sysconfig.get_paths()["stdlib"])
    for name in ("ast.py", "json/decoder.py", "random.py"):
        assert (root / name).read_bytes() in text
    assert stdlib_bytes().digest == corpus.digest


def a_library(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"# {name}\n".encode())


def test_the_corpus_leaves_out_tests_and_other_peoples_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ["b.py", "a.py", "a/b.py", "json/tool.py"]
    a_library(tmp_path, [*kept, "test/x.py", "json/tests/y.py", "site-packages/z.py", "idlelib/w.py", "c.txt"])
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    corpus = stdlib_bytes()
    lines = [bytes(part.numpy()).decode() for part in (corpus.train, corpus.validation, corpus.test)]
    assert corpus.num_files == 4
    assert sorted("".join(lines).split("\n")[:-1]) == [f"# {name}" for name in sorted(kept)]
    # in each part the files follow each other in the order of their POSIX paths: "a.py" < "a/b.py" < "b.py"
    for text in lines:
        assert text.split("\n")[:-1] == sorted(text.split("\n")[:-1])


def test_the_digest_sees_a_moved_byte_and_a_renamed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    (tmp_path / "a.py").write_bytes(b"12")
    (tmp_path / "b.py").write_bytes(b"3")
    digests = {stdlib_bytes().digest}
    (tmp_path / "a.py").write_bytes(b"1")
    (tmp_path / "b.py").write_bytes(b"23")
    digests.add(stdlib_bytes().digest)
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    digests.add(stdlib_bytes().digest)
    assert len(digests) == 3


def test_a_python_without_source_files_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="the standard library has no source files in"):
        stdlib_bytes()


@settings(derandomize=True, deadline=None, max_examples=50)
@given(num_bytes=st.integers(2, 60), length=st.integers(1, 20))
def test_the_target_of_a_byte_is_the_byte_after_it(num_bytes: int, length: int) -> None:
    text = torch.arange(num_bytes, dtype=torch.uint8)
    if num_bytes <= length:
        with pytest.raises(ValueError, match="text must have one dimension and >"):
            windows(text, length=length)
        return
    inputs, targets = windows(text, length=length)
    assert inputs.shape == targets.shape == ((num_bytes - 1) // length, length)
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs.flatten(), torch.arange(inputs.numel()))


def test_windows_refuses_other_tensors() -> None:
    with pytest.raises(TypeError, match=r"text must be uint8, got torch.int64"):
        windows(torch.arange(9), length=2)
    with pytest.raises(ValueError, match="got shape"):
        windows(torch.zeros(3, 3, dtype=torch.uint8), length=2)
    with pytest.raises(ValueError, match="length must be >= 1, got 0"):
        windows(torch.zeros(9, dtype=torch.uint8), length=0)


# photographs


def test_the_photographs_are_two_real_images() -> None:
    images = photographs()
    assert sorted(images) == ["china", "flower"]
    for image in images.values():
        assert image.shape == (3, 427, 640)
        assert image.dtype == torch.float32
        assert 0 <= float(image.min()) < float(image.max()) <= 1
    # first pixel of china.jpg, red green blue, as decoded by every JPEG library: 174, 201, 231
    assert (images["china"][:, 0, 0] * 255).round().tolist() == [174, 201, 231]


def test_a_hand_worked_photograph_is_split_like_a_checkerboard() -> None:
    image = torch.arange(12, dtype=torch.float64).view(1, 3, 4)
    splits = pixels(image)
    assert splits.train[1].flatten().tolist() == [0, 2, 5, 7, 8, 10]
    assert splits.validation[1].flatten().tolist() == [1, 3, 9, 11]
    assert splits.test[1].flatten().tolist() == [4, 6]
    assert splits.test[0].tolist() == [[0, -1], [0, pytest.approx(1 / 3)]]
    assert splits.train[0].dtype == torch.float64


def test_pixels_refuses_what_is_no_image() -> None:
    with pytest.raises(TypeError, match=r"image must be floating point, got torch.uint8"):
        pixels(torch.zeros(3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="image must be"):
        pixels(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="image must be"):
        pixels(torch.zeros(3, 1, 4))


# image sets in files


def idx(tensor: Tensor) -> bytes:
    header = b"\0\0\x08" + bytes([tensor.ndim]) + b"".join(n.to_bytes(4, "big") for n in tensor.shape)
    return header + tensor.numpy().tobytes()


def a_file(name: str, content: bytes) -> object:
    return files.File(name, len(content), hashlib.md5(content).hexdigest())


NAMES = [file[0].name for file in files.FASHION_MNIST.parts]


@pytest.fixture
def contents() -> dict[str, bytes]:
    """Return a Fashion-MNIST of 40 + 20 random images, by file name."""
    generator = torch.Generator().manual_seed(0)
    result = {}
    for images, labels, num in ((NAMES[0], NAMES[1], 40), (NAMES[2], NAMES[3], 20)):
        pixel = torch.randint(0, 256, (num, 28, 28), generator=generator, dtype=torch.uint8)
        result[images] = idx(pixel)
        result[labels] = idx(torch.arange(num, dtype=torch.uint8) % 10)
    return result


@pytest.fixture
def tiny(contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make the tiny set the expected one, and return an empty folder where it may lie."""
    from dataclasses import replace

    known = tuple(
        (a_file(name, contents[name]), a_file(f"{name}.gz", gzip.compress(contents[name], mtime=0))) for name in NAMES
    )
    monkeypatch.setattr(datasets, "FASHION_MNIST", replace(files.FASHION_MNIST, parts=known))
    monkeypatch.delenv("NNOPT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "root"


def write(root: Path, contents: dict[str, bytes], *, gz: bool = False) -> Path:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / (f"{name}.gz" if gz else name)).write_bytes(gzip.compress(content, mtime=0) if gz else content)
    return folder


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("place", ["root", "variable", "cache"])
def test_fashion_mnist_is_found_in_three_places_plain_or_compressed(
    tiny: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, gz: bool, place: str
) -> None:
    root = tiny.parent / "cache" / "nnopt" if place == "cache" else tiny
    write(root, contents, gz=gz)
    if place == "variable":
        monkeypatch.setenv("NNOPT_DATA", str(tiny))
    splits = fashion_mnist(tiny if place == "root" else None, dtype=torch.uint8)
    assert [tuple(a.shape) for a, _ in parts(splits)] == [(30, 1, 28, 28), (10, 1, 28, 28), (20, 1, 28, 28)]
    assert splits.test[0].numpy().tobytes() == contents[NAMES[2]][16:]
    assert splits.validation[1].bincount().tolist() == [1] * 10
    assert splits.test[1].dtype == torch.int64


def test_the_explicit_root_comes_before_the_variable(
    tiny: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tiny, contents)
    monkeypatch.setenv("NNOPT_DATA", str(tiny.parent / "other"))
    folder = write(tiny.parent / "other", contents)
    (folder / NAMES[0]).write_bytes(b"damaged")
    assert len(fashion_mnist(tiny).test[1]) == 20


def test_pixels_become_fractions_unless_bytes_are_asked_for(tiny: Path, contents: dict[str, bytes]) -> None:
    write(tiny, contents)
    fractions, raw = fashion_mnist(tiny), fashion_mnist(tiny, dtype=torch.uint8)
    assert fractions.train[0].dtype == torch.float32
    torch.testing.assert_close(fractions.train[0] * 255, raw.train[0].float(), rtol=0, atol=1e-4)
    assert float(fractions.train[0].max()) <= 1
    with pytest.raises(ValueError, match=r"dtype must be one of torch.float32, torch.uint8, got torch.float64"):
        fashion_mnist(tiny, dtype=torch.float64)


def test_the_validation_part_is_drawn_by_seed_and_the_test_set_never_changes(
    tiny: Path, contents: dict[str, bytes]
) -> None:
    write(tiny, contents)
    first, second = fashion_mnist(tiny), fashion_mnist(tiny, split_seed=1)
    assert not torch.equal(first.validation[0], second.validation[0])
    assert torch.equal(first.test[0], second.test[0])


def test_missing_files_are_named_with_places_and_the_offline_alternative(tiny: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        fashion_mnist(tiny)
    text = str(error.value)
    assert text.startswith("Fashion-MNIST is not on this machine")
    for words in (str(tiny / "FashionMNIST" / "raw"), str(tiny.parent / "cache"), *NAMES, "NNOPT_DATA"):
        assert words in text
    assert "download=True" in text
    assert "nnopt.data.digits()" in text


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: c + b"\0", lambda c: c[:99] + b"\0\1\2" + c[102:], lambda c: b""]
)
def test_a_damaged_file_is_refused_and_left_where_it_is(tiny: Path, contents: dict[str, bytes], damage: object) -> None:
    assert callable(damage)
    folder = write(tiny, contents)
    (folder / NAMES[2]).write_bytes(damage(contents[NAMES[2]]))
    with pytest.raises(ValueError, match=rf"Fashion-MNIST has a damaged file .*{NAMES[2]}"):
        fashion_mnist(tiny, download=True)
    assert (folder / NAMES[2]).read_bytes() == damage(contents[NAMES[2]])


def test_a_file_that_changes_after_it_passed_is_verified_again(tiny: Path, contents: dict[str, bytes]) -> None:
    folder = write(tiny, contents)
    fashion_mnist(tiny)
    path = folder / NAMES[0]
    damaged = bytearray(contents[NAMES[0]])
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ValueError, match="damaged"):
        fashion_mnist(tiny)


def test_an_unchanged_file_is_not_hashed_twice(
    tiny: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tiny, contents)
    fashion_mnist(tiny)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert len(fashion_mnist(tiny).test[1]) == 20


@pytest.mark.skipif(not os.environ.get("NNOPT_DATA"), reason="NNOPT_DATA names no folder with Fashion-MNIST")
def test_the_real_fashion_mnist_has_its_published_mean_and_deviation() -> None:
    splits = fashion_mnist(dtype=torch.uint8)
    assert [len(b) for _, b in parts(splits)] == [55_000, 5_000, 10_000]
    train = torch.cat([splits.train[0], splits.validation[0]]).double() / 255
    assert float(train.mean()) == pytest.approx(0.28604, abs=5e-6)
    assert float(train.std()) == pytest.approx(0.35302, abs=5e-6)
    assert splits.validation[1].bincount().tolist() == [500] * 10


# CIFAR-10


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    from dataclasses import replace

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
            # 10 records: label, then red, green and blue planes; the red corner tells batch and row
            records = torch.zeros(10, 3073, dtype=torch.uint8)
            records[:, 0] = torch.arange(10)
            records[:, 1] = 10 * number + torch.arange(10)
            records[:, 1 + 1024 + 32] = 200
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = records.numel()
            tar.addfile(info, io.BytesIO(records.numpy().tobytes()))
    content = buffer.getvalue()
    known = ((a_file("cifar-10-binary.tar.gz", content),),)
    monkeypatch.setattr(datasets, "CIFAR10", replace(files.CIFAR10, parts=known))
    monkeypatch.delenv("NNOPT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(content)
    return tmp_path


def test_cifar10_is_read_from_the_binary_archive(archive: Path) -> None:
    splits = cifar10(archive, dtype=torch.uint8)
    assert [tuple(a.shape) for a, _ in parts(splits)] == [(45, 3, 32, 32), (5, 3, 32, 32), (10, 3, 32, 32)]
    assert splits.test[0][:, 0, 0, 0].tolist() == list(range(50, 60))
    assert splits.test[1].tolist() == list(range(10))
    seen = torch.cat([splits.train[0], splits.validation[0]])[:, 0, 0, 0]
    assert sorted(seen.tolist()) == list(range(50))
    assert int(splits.train[0][0, 1, 1, 0]) == 200
    assert float(cifar10(archive).train[0].max()) == pytest.approx(200 / 255)


def test_a_missing_or_truncated_archive_is_refused(archive: Path) -> None:
    path = archive / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"CIFAR-10 has a damaged file .*cifar-10-binary.tar.gz"):
        cifar10(archive)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10 is not on this machine.*cifar-10-binary.tar.gz"):
        cifar10(archive)


def test_a_set_is_frozen_and_moves_as_a_whole() -> None:
    splits = digits("writers")
    with pytest.raises(FrozenInstanceError):
        splits.train = splits.test  # type: ignore[misc]
    moved = splits.to("meta")
    assert [a.device.type for part in parts(moved) for a in part] == ["meta"] * 6
    assert splits.train[0].device.type == "cpu"
