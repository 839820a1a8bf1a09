"""Measuring: what a model costs, how long it takes, and what a comparison proves."""

from ._comparison import Comparison as Comparison
from ._comparison import TimeRatio as TimeRatio
from ._report import Report as Report
from .claims import Claim as Claim
from .claims import ClaimFailed as ClaimFailed
from .claims import Plan as Plan
from .claims import bound as bound
from .claims import difference as difference
from .claims import equivalence as equivalence
from .claims import frequency as frequency
from .claims import glue as glue
from .claims import hold_probability as hold_probability
from .claims import plan as plan
from .claims import time_ratio as time_ratio
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
    "Claim",
    "ClaimFailed",
    "Comparison",
    "Plan",
    "Report",
    "SimulatedMachine",
    "TimeRatio",
    "activation_bytes",
    "bound",
    "by_layer",
    "compare",
    "difference",
    "equivalence",
    "file_bytes",
    "forward_bytes",
    "frequency",
    "glue",
    "hold_probability",
    "macs",
    "measure",
    "median_interval",
    "num_parameters",
    "peak_bytes",
    "plan",
    "report",
    "time_ratio",
]
