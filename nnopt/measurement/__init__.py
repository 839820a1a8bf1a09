"""Measuring: what a network costs, how long it takes, and what a comparison may say."""

from ._comparison import Comparison as Comparison
from ._comparison import TimeRatio as TimeRatio
from ._report import Report as Report
from .cost import activation_bytes as activation_bytes
from .cost import by_layer as by_layer
from .cost import file_bytes as file_bytes
from .cost import forward_bytes as forward_bytes
from .cost import macs as macs
from .cost import num_parameters as num_parameters
from .cost import peak_bytes as peak_bytes
from .cost import report as report
from .timing import SimulatedMachine as SimulatedMachine
from .timing import compare as compare
from .timing import measure as measure
from .timing import median_interval as median_interval

__all__ = [
    "Comparison",
    "Report",
    "SimulatedMachine",
    "TimeRatio",
    "activation_bytes",
    "by_layer",
    "compare",
    "file_bytes",
    "forward_bytes",
    "macs",
    "measure",
    "median_interval",
    "num_parameters",
    "peak_bytes",
    "report",
]
