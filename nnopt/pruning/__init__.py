"""Pruning: which weights to remove, and how they stay removed."""

from .magnitude import apply_masks as apply_masks
from .magnitude import global_masks as global_masks
from .magnitude import keep_masks as keep_masks
from .magnitude import magnitude_mask as magnitude_mask
from .magnitude import n_m_mask as n_m_mask
from .magnitude import prunable_weights as prunable_weights
from .magnitude import random_mask as random_mask

__all__ = [
    "apply_masks",
    "global_masks",
    "keep_masks",
    "magnitude_mask",
    "n_m_mask",
    "prunable_weights",
    "random_mask",
]
