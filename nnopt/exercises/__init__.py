"""Checkers for the reader's own code: each answers in one sentence."""

from ._verdict import Verdict as Verdict
from .adaptive import AdamFunction as AdamFunction
from .adaptive import check_adam_test as check_adam_test
from .affine import Quantizer as Quantizer
from .affine import check_quantizer_test as check_quantizer_test
from .augmentation import ShiftFunction as ShiftFunction
from .augmentation import check_random_shift as check_random_shift
from .averaging import check_noise_of_mean as check_noise_of_mean
from .batch_size import check_fastest_batch as check_fastest_batch
from .batches import Loader as Loader
from .batches import check_loader_test as check_loader_test
from .claims import check_decision_rule as check_decision_rule
from .comparison import check_probability_of_improvement as check_probability_of_improvement
from .cost import check_mac_counter as check_mac_counter
from .data_parallel import check_averaging as check_averaging
from .datasets import check_split as check_split
from .descent import check_stability_edge as check_stability_edge
from .dropout import DropoutFunction as DropoutFunction
from .dropout import check_dropout as check_dropout
from .evaluate import check_optimism as check_optimism
from .fit import TrainingRun as TrainingRun
from .fit import check_resume as check_resume
from .losses import check_loss_test as check_loss_test
from .magnitude import check_global_masks as check_global_masks
from .momentum import check_momentum_choice as check_momentum_choice
from .neurons import check_repair as check_repair
from .orthogonal import FactorFunction as FactorFunction
from .orthogonal import check_factor_test as check_factor_test
from .schedules import check_greedy_rates as check_greedy_rates
from .second_order import ProductFunction as ProductFunction
from .second_order import check_product_test as check_product_test
from .sharpness import check_sharpness_way as check_sharpness_way
from .soft_targets import SoftLoss as SoftLoss
from .soft_targets import check_soft_target_test as check_soft_target_test
from .sweep import check_tuner as check_tuner
from .timing import check_comparison as check_comparison

__all__ = [
    "AdamFunction",
    "DropoutFunction",
    "FactorFunction",
    "Loader",
    "ProductFunction",
    "Quantizer",
    "ShiftFunction",
    "SoftLoss",
    "TrainingRun",
    "Verdict",
    "check_adam_test",
    "check_averaging",
    "check_comparison",
    "check_decision_rule",
    "check_dropout",
    "check_factor_test",
    "check_fastest_batch",
    "check_global_masks",
    "check_greedy_rates",
    "check_loader_test",
    "check_loss_test",
    "check_mac_counter",
    "check_momentum_choice",
    "check_noise_of_mean",
    "check_optimism",
    "check_probability_of_improvement",
    "check_product_test",
    "check_quantizer_test",
    "check_random_shift",
    "check_repair",
    "check_resume",
    "check_sharpness_way",
    "check_soft_target_test",
    "check_split",
    "check_stability_edge",
    "check_tuner",
]
