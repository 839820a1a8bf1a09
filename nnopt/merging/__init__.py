"""Merging: networks made smaller by putting parts together instead of throwing them away."""

from .neurons import choose_units as choose_units
from .neurons import keep_units as keep_units
from .neurons import merge_units as merge_units
from .neurons import ridge_regression as ridge_regression

__all__ = [
    "choose_units",
    "keep_units",
    "merge_units",
    "ridge_regression",
]
