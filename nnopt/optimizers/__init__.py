"""Optimizers: each rule as a pure step in the letters of its chapter, and classes where torch has none."""

from ._adaptive_variants import adafactor_step as adafactor_step
from ._adaptive_variants import nadam_step as nadam_step
from ._adaptive_variants import radam_step as radam_step
from ._averaged import Averaged as Averaged
from ._averaged import refresh_batchnorm as refresh_batchnorm
from ._conjugate_gradient import LinearSolution as LinearSolution
from ._conjugate_gradient import conjugate_gradient as conjugate_gradient
from ._feedback import Plateau as Plateau
from ._feedback import RangeTest as RangeTest
from ._feedback import range_test as range_test
from ._flat_buffer import flat as flat
from ._kronecker import kronecker_factors as kronecker_factors
from ._kronecker import kronecker_step as kronecker_step
from ._kronecker_factored import KroneckerFactored as KroneckerFactored
from ._least_squares import LevenbergMarquardt as LevenbergMarquardt
from ._least_squares import gauss_newton_step as gauss_newton_step
from ._lion import Lion as Lion
from ._long_memory import ademamix_step as ademamix_step
from ._long_memory import prodigy_step as prodigy_step
from ._matrix_optimizers import SOAP as SOAP
from ._matrix_optimizers import Shampoo as Shampoo
from ._muon import Muon as Muon
from ._muon import muon_groups as muon_groups
from ._noise import expected_loss as expected_loss
from ._preconditioned import shampoo_step as shampoo_step
from ._preconditioned import soap_step as soap_step
from ._schedule_free import ScheduleFreeAdamW as ScheduleFreeAdamW
from ._sharpness_aware import SharpnessAware as SharpnessAware
from .adaptive import adagrad_step as adagrad_step
from .adaptive import adam_step as adam_step
from .adaptive import lion_step as lion_step
from .adaptive import rmsprop_step as rmsprop_step
from .averaging import averaged_weights as averaged_weights
from .averaging import ema_update as ema_update
from .averaging import running_mean as running_mean
from .averaging import schedule_free_adamw_step as schedule_free_adamw_step
from .averaging import schedule_free_step as schedule_free_step
from .batch_size import accumulate as accumulate
from .batch_size import gradient_noise_scale as gradient_noise_scale
from .batch_size import per_example_noise_scale as per_example_noise_scale
from .batch_size import scale_lr as scale_lr
from .comparison import interquartile_mean as interquartile_mean
from .comparison import performance_profile as performance_profile
from .comparison import steps_to_target as steps_to_target
from .descent import gradient_step as gradient_step
from .descent import largest_curvature as largest_curvature
from .descent import stability_limit as stability_limit
from .momentum import critical_momentum as critical_momentum
from .momentum import momentum_rate as momentum_rate
from .momentum import momentum_step as momentum_step
from .momentum import optimal_momentum as optimal_momentum
from .orthogonal import muon_step as muon_step
from .orthogonal import newton_schulz as newton_schulz
from .orthogonal import orthogonal_factor as orthogonal_factor
from .schedules import constant as constant
from .schedules import cosine as cosine
from .schedules import exponential as exponential
from .schedules import inverse_square_root as inverse_square_root
from .schedules import linear as linear
from .schedules import one_cycle as one_cycle
from .schedules import step_decay as step_decay
from .schedules import warmup_stable_decay as warmup_stable_decay
from .schedules import with_warmup as with_warmup
from .second_order import dense_hessian as dense_hessian
from .second_order import hessian_vector_product as hessian_vector_product
from .second_order import lbfgs_direction as lbfgs_direction
from .second_order import newton_cg_step as newton_cg_step
from .second_order import newton_step as newton_step
from .sharpness import measure_sharpness as measure_sharpness
from .sharpness import sharpness_perturbation as sharpness_perturbation

__all__ = [
    "Averaged",
    "KroneckerFactored",
    "LevenbergMarquardt",
    "LinearSolution",
    "Lion",
    "Muon",
    "Plateau",
    "RangeTest",
    "SOAP",
    "ScheduleFreeAdamW",
    "Shampoo",
    "SharpnessAware",
    "accumulate",
    "adafactor_step",
    "adagrad_step",
    "adam_step",
    "ademamix_step",
    "averaged_weights",
    "conjugate_gradient",
    "constant",
    "cosine",
    "critical_momentum",
    "dense_hessian",
    "ema_update",
    "expected_loss",
    "exponential",
    "flat",
    "gauss_newton_step",
    "gradient_noise_scale",
    "gradient_step",
    "hessian_vector_product",
    "interquartile_mean",
    "inverse_square_root",
    "kronecker_factors",
    "kronecker_step",
    "largest_curvature",
    "lbfgs_direction",
    "linear",
    "lion_step",
    "measure_sharpness",
    "momentum_rate",
    "momentum_step",
    "muon_groups",
    "muon_step",
    "nadam_step",
    "newton_cg_step",
    "newton_schulz",
    "newton_step",
    "one_cycle",
    "optimal_momentum",
    "orthogonal_factor",
    "per_example_noise_scale",
    "performance_profile",
    "prodigy_step",
    "radam_step",
    "range_test",
    "refresh_batchnorm",
    "rmsprop_step",
    "running_mean",
    "scale_lr",
    "schedule_free_adamw_step",
    "schedule_free_step",
    "shampoo_step",
    "sharpness_perturbation",
    "soap_step",
    "stability_limit",
    "step_decay",
    "steps_to_target",
    "warmup_stable_decay",
    "with_warmup",
]
