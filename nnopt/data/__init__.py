"""Data: real, free and offline; splits; batches."""

from ._stratified import stratified_split as stratified_split
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
    "Batches",
    "Corpus",
    "Splits",
    "batches",
    "cifar10",
    "digits",
    "fashion_mnist",
    "photographs",
    "pixels",
    "stdlib_bytes",
    "stratified_split",
    "windows",
]
