"""Data: real, free and offline; splits; batches."""

from ._geometry import affine_matrices as affine_matrices
from ._geometry import warp as warp
from ._stratified import stratified_split as stratified_split
from .augmentation import Augment as Augment
from .augmentation import Augmentation as Augmentation
from .augmentation import add_noise as add_noise
from .augmentation import erase as erase
from .augmentation import flip as flip
from .augmentation import random_affine as random_affine
from .augmentation import random_erase as random_erase
from .augmentation import random_flip as random_flip
from .batches import Batches as Batches
from .batches import batches as batches
from .datasets import Corpus as Corpus
from .datasets import Splits as Splits
from .datasets import cifar10 as cifar10
from .datasets import digits as digits
from .datasets import fashion_mnist as fashion_mnist
from .datasets import photographs as photographs
from .datasets import pixels as pixels
from .datasets import stdlib_bytes as stdlib_bytes
from .datasets import windows as windows

__all__ = [
    "Augment",
    "Augmentation",
    "Batches",
    "Corpus",
    "Splits",
    "add_noise",
    "affine_matrices",
    "batches",
    "cifar10",
    "digits",
    "erase",
    "fashion_mnist",
    "flip",
    "photographs",
    "pixels",
    "random_affine",
    "random_erase",
    "random_flip",
    "stdlib_bytes",
    "stratified_split",
    "warp",
    "windows",
]
