"""Training: one loop, evaluation, losses, and sweeps over many runs at once."""

from .evaluate import Metric as Metric
from .evaluate import accuracy as accuracy
from .evaluate import evaluate as evaluate
from .evaluate import evaluation_mode as evaluation_mode
from .evaluate import permute_labels as permute_labels
from .evaluate import selection_optimism as selection_optimism
from .evaluate import wilson_interval as wilson_interval
from .fit import History as History
from .fit import Hook as Hook
from .fit import StepRecord as StepRecord
from .fit import fit as fit
from .losses import cross_entropy as cross_entropy
from .losses import loss_floor as loss_floor
from .losses import mean_squared_error as mean_squared_error
from .losses import require_logits as require_logits
from .losses import require_mean_over_rows as require_mean_over_rows
from .losses import require_rows_kept as require_rows_kept
from .sweep import SweepData as SweepData
from .sweep import SweepResult as SweepResult
from .sweep import grid as grid
from .sweep import sweep as sweep

__all__ = [
    "History",
    "Hook",
    "Metric",
    "StepRecord",
    "SweepData",
    "SweepResult",
    "accuracy",
    "cross_entropy",
    "evaluate",
    "evaluation_mode",
    "fit",
    "grid",
    "loss_floor",
    "mean_squared_error",
    "permute_labels",
    "require_logits",
    "require_mean_over_rows",
    "require_rows_kept",
    "selection_optimism",
    "sweep",
    "wilson_interval",
]
