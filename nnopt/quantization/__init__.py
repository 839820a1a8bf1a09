"""Fewer bits for a number: grids, codes and what rounding costs."""

from .affine import Granularity as Granularity
from .affine import Quantized as Quantized
from .affine import choose_grid as choose_grid
from .affine import quantize as quantize
from .affine import quantize_weights as quantize_weights

__all__ = ["Granularity", "Quantized", "choose_grid", "quantize", "quantize_weights"]
