"""Data that is real, free and offline, with its splits: chapter *Datasets*.

Embedded in packages that are installed anyway: handwritten digits, Python's own source, two photographs.
From a folder of yours, or a download that you ask for: Fashion-MNIST and CIFAR-10.
"""

import hashlib
import os
import sysconfig
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from nnopt.checks import require_dtype, require_integer, require_one_of
from nnopt.types import Batch, DeviceLike

from ._digits import load_digits
from ._files import CIFAR10, FASHION_MNIST, as_tensor, find, parse_idx, read_plain
from ._stratified import hashed, stratified_split

__all__ = [
    "Corpus",
    "Splits",
    "cifar10",
    "digits",
    "fashion_mnist",
    "photographs",
    "pixels",
    "stdlib_bytes",
    "windows",
]

_WRITERS_TRAIN, _WRITERS_VALIDATION, _WRITERS_TEST = 1000, 297, 500
_RANDOM_VALIDATION, _RANDOM_TEST = 297, 450
_NOT_CORPUS = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts of a data set, each a batch (inputs, targets).

    Args:
        train: what gradients see.
        validation: what choices (rates, lengths, architectures) see.
        test: what is looked at once, at the end.
    """

    train: Batch
    validation: Batch
    test: Batch

    def to(self, device: DeviceLike) -> "Splits":
        """Return the same splits on ``device``."""
        parts = (self.train, self.validation, self.test)
        return Splits(*((inputs.to(device), targets.to(device)) for inputs, targets in parts))


@dataclass(frozen=True)
class Corpus:
    """Text as bytes, split by file.

    Args:
        train: uint8 (T,), about 80 % of the files.
        validation: uint8 (V,), about 10 %.
        test: uint8 (S,), about 10 %.
        digest: sha256 of all paths and contents: equal digests mean equal corpora.
        num_files: how many files are in it.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    digest: str
    num_files: int


def digits(split: str = "random", *, split_seed: int = 0) -> Splits:
    """Return scikit-learn's 1,797 handwritten 8×8 digits: real, embedded, small enough for every seed.

    Args:
        split: ``random`` is stratified by class, 1,050 / 297 / 450 images, and easy: the writers of the test
            images are in the training set too. ``writers`` keeps the file's order, 1,000 / 297 / 500 images:
            the writers of the last 500 were never seen.
        split_seed: 0 is the published random split; every other integer draws another of the same sizes.
            ``writers`` has only 0: to redraw it would mix the writers.

    Returns:
        Inputs float32 (N, 1, 8, 8) in [0, 1], targets int64 (N,) in 0 … 9, rows in the file's order.

    Raises:
        ValueError: the split is unknown, or ``writers`` is asked for with a seed.
        TypeError: the seed is not an integer.

    Convention:
        The file is the test half of UCI optdigits in its original order, so contiguous blocks come from
        different people. The last 500 rows are a *hard* block: other blocks of 500 cost between nothing and
        six points against random rows, about three on average. So a loss of five points on ``writers`` is a
        sentence about these 500 rows and not about unseen people in general. 450 test images are .22
        points each: too coarse to rank optimizers by one run.

    Source:
        E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998.

    Example:
        >>> splits = digits("writers")
        >>> tuple(splits.test[0].shape)
        (500, 1, 8, 8)
    """
    require_one_of("split", split, ("random", "writers"))
    require_integer("split_seed", split_seed)
    inputs, targets = load_digits()
    if split == "random":
        rows = _random_rows(split_seed)
    elif split_seed != 0:
        raise ValueError(f"split_seed must be 0 for split 'writers', got {split_seed}")
    else:
        rows = torch.arange(len(targets)).split([_WRITERS_TRAIN, _WRITERS_VALIDATION, _WRITERS_TEST])
    return Splits(*((inputs[part], targets[part]) for part in rows))


@lru_cache(maxsize=512)
def _random_rows(split_seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Remember the rows of a split: sweeps ask for train and for test of many."""
    targets = load_digits()[1]
    return stratified_split(targets, num_validation=_RANDOM_VALIDATION, num_test=_RANDOM_TEST, split_seed=split_seed)


def stdlib_bytes() -> Corpus:
    """Return the running Python's own standard library as a byte corpus, about 11 MB of real text.

    All ``.py`` files outside tests, idlelib, lib2to3 and site-packages, in the order of their POSIX paths. A
    file belongs to train, validation or test by a hash of its path, so that no file is cut in two.

    Raises:
        FileNotFoundError: this Python has no source files (a zipped or embedded build).

    Convention:
        Another Python has other bytes: print ``digest`` beside a result, and claim nothing that depends on
        one version.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    names = sorted(_source_files(root))
    if not names:
        raise FileNotFoundError(f"the standard library has no source files in {root}")
    digest = hashlib.sha256()
    parts: tuple[list[bytes], ...] = ([], [], [])
    for name in names:
        content = (root / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
        tenth = hashed(name) * 10 >> 256
        parts[max(0, tenth - 7)].append(content)
    train, validation, test = (as_tensor(b"".join(part)) for part in parts)
    return Corpus(train, validation, test, digest=digest.hexdigest(), num_files=len(names))


def windows(text: Tensor, *, length: int) -> Batch:
    """Cut a text into pieces for next-byte prediction: the target of a byte is the byte after it.

    Args:
        text: uint8 (T,), at least ``length`` + 1 of them.
        length: bytes a model sees at once.

    Returns:
        Inputs and targets, int64 (N, ``length``) each, N = (T − 1) // ``length``, without overlap.

    Raises:
        ValueError: the text is not one-dimensional or too short.
        TypeError: it is not a uint8 tensor.

    Example:
        >>> windows(torch.tensor([1, 2, 3, 4, 5, 6], dtype=torch.uint8), length=2)[1].tolist()
        [[2, 3], [4, 5]]
    """
    require_dtype("text", text, torch.uint8)
    require_integer("length", length, minimum=1)
    if text.ndim != 1 or len(text) <= length:
        raise ValueError(f"text must have one dimension and > {length} bytes, got shape {tuple(text.shape)}")
    used = (len(text) - 1) // length * length
    return text[:used].view(-1, length).long(), text[1 : used + 1].view(-1, length).long()


def photographs() -> dict[str, Tensor]:
    """Return scikit-learn's two sample photographs.

    Returns:
        ``china`` and ``flower``: float32 (3, 427, 640) in [0, 1].

    Source:
        "China" by Yann Forget and "Flower" by dany13, CC BY 2.0, distributed with scikit-learn.
    """
    from sklearn.datasets import load_sample_image

    images = {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    return {name: torch.tensor(image).permute(2, 0, 1).float() / 255 for name, image in images.items()}


def pixels(image: Tensor) -> Splits:
    """Split a photograph into pixels for a network that maps a place to a color.

    Even pixels (row + column even, a checkerboard) train; of the odd ones those in even rows validate and
    those in odd rows test: every test pixel lies between training pixels.

    Args:
        image: (C, H, W), at least 2×2.

    Returns:
        Inputs (N, 2): row and column, each from −1 at the first to 1 at the last; targets (N, C).

    Raises:
        ValueError: the image has other dimensions, or is smaller.
        TypeError: it is not a tensor of floating point numbers.
    """
    require_dtype("image", image, None)
    if image.ndim != 3 or min(image.shape[1:]) < 2:
        raise ValueError(f"image must be (C, H, W) with H, W >= 2, got shape {tuple(image.shape)}")
    height, width = image.shape[1:]
    rows = torch.arange(height, device=image.device)[:, None].expand(height, width)
    columns = torch.arange(width, device=image.device).expand(height, width)
    axes = [torch.linspace(-1, 1, n, dtype=image.dtype, device=image.device) for n in (height, width)]
    places = torch.stack([axes[0][rows], axes[1][columns]], dim=-1)
    colors = image.permute(1, 2, 0)
    even = (rows + columns) % 2 == 0
    masks = (even, ~even & (rows % 2 == 0), ~even & (rows % 2 == 1))
    return Splits(*((places[mask], colors[mask]) for mask in masks))


def fashion_mnist(
    root: str | Path | None = None,
    *,
    split_seed: int = 0,
    dtype: torch.dtype = torch.float32,
    download: bool = False,
    timeout_s: float = 20.0,
) -> Splits:
    """Return Fashion-MNIST: 55,000 / 5,000 / 10,000 images of clothes in ten classes.

    Looks in ``root``, in ``$NNOPT_DATA`` and in the user's cache folder, verifies what it finds, and opens
    no connection unless asked.

    Args:
        root: folder that holds ``FashionMNIST/raw``, as torchvision lays it out.
        split_seed: draws the stratified validation part; test is the publisher's.
        dtype: ``torch.float32`` for values in [0, 1], ``torch.uint8`` for the bytes themselves.
        download: fetch what is missing, into the first of these folders.
        timeout_s: longest silence of the server, seconds.

    Returns:
        Inputs (N, 1, 28, 28), targets int64 (N,).

    Raises:
        FileNotFoundError: the files are nowhere and ``download`` is False.
        ConnectionError: the server was silent or sent something else; nothing is stored.
        OSError: the disk refused the downloaded file.
        ValueError: a file is damaged, or the dtype is another one.
        TypeError: the seed is not an integer.

    Convention:
        Mean and standard deviation of the publisher's training pixels are .28604 and .35302.

    Source:
        H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, arXiv:1708.07747. MIT license, © Zalando SE.
    """
    require_one_of("dtype", dtype, (torch.float32, torch.uint8))
    require_integer("split_seed", split_seed)
    parts = range(len(FASHION_MNIST.parts))
    paths = [find(FASHION_MNIST, i, root=root, download=download, timeout_s=timeout_s) for i in parts]
    inputs, targets, test_inputs, test_targets = (parse_idx(read_plain(path), path.name) for path in paths)
    return _with_validation(
        (inputs[:, None], targets.long()),
        (test_inputs[:, None], test_targets.long()),
        split_seed=split_seed,
        dtype=dtype,
    )


def cifar10(
    root: str | Path | None = None,
    *,
    split_seed: int = 0,
    dtype: torch.dtype = torch.float32,
    download: bool = False,
    timeout_s: float = 20.0,
) -> Splits:
    """Return CIFAR-10: 45,000 / 5,000 / 10,000 small photographs in ten classes.

    As :func:`fashion_mnist`, from the *binary* archive ``cifar-10-binary.tar.gz``, read without unpacking.

    Returns:
        Inputs (N, 3, 32, 32), targets int64 (N,).

    Raises:
        FileNotFoundError: the archive is nowhere and ``download`` is False.
        ConnectionError: the server was silent or sent something else; nothing is stored.
        OSError: the disk refused the downloaded file.
        ValueError: the archive is damaged, or the dtype is another one.
        TypeError: the seed is not an integer.

    Source:
        A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    require_one_of("dtype", dtype, (torch.float32, torch.uint8))
    require_integer("split_seed", split_seed)
    path = find(CIFAR10, 0, root=root, download=download, timeout_s=timeout_s)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    with tarfile.open(path) as archive:
        members = [archive.extractfile(f"cifar-10-batches-bin/{name}.bin") for name in names]
        contents = [member.read() for member in members if member is not None]
    train, test = b"".join(contents[:-1]), contents[-1]
    return _with_validation(_records(train), _records(test), split_seed=split_seed, dtype=dtype)


def _source_files(root: Path) -> Iterator[str]:
    """Yield the POSIX paths of the corpus below ``root``; excluded folders are not entered."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _NOT_CORPUS]
        for name in names:
            if name.endswith(".py"):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _records(content: bytes) -> Batch:
    """Parse records of one label byte and 3·32·32 pixel bytes."""
    rows = as_tensor(content).view(-1, 1 + 3 * 32 * 32)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].long()


def _with_validation(train: Batch, test: Batch, *, split_seed: int, dtype: torch.dtype) -> Splits:
    """Take half as many rows as the test set has out of train: 5,000 images of either set."""
    inputs, targets = train
    train_rows, validation_rows, _ = stratified_split(
        targets, num_validation=len(test[1]) // 2, num_test=0, split_seed=split_seed
    )
    parts = [(inputs[rows], targets[rows]) for rows in (train_rows, validation_rows)] + [test]
    if dtype == torch.float32:
        parts = [(images.float().div_(255), labels) for images, labels in parts]
    return Splits(*parts)
