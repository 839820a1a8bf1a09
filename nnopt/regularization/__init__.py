"""Regularization: what keeps a network from learning its training set word for word."""

from .dropout import Dropout as Dropout
from .dropout import DropPath as DropPath
from .dropout import apply_keep_mask as apply_keep_mask
from .dropout import drop_path as drop_path
from .dropout import dropout as dropout
from .dropout import keep_mask as keep_mask

__all__ = ["DropPath", "Dropout", "apply_keep_mask", "drop_path", "dropout", "keep_mask"]
