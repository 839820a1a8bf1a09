"""Distributed training: processes that start together, and replicas that stay equal."""

from .data_parallel import average_gradients as average_gradients
from .data_parallel import combine_gradients as combine_gradients
from .data_parallel import compare_step_times as compare_step_times
from .data_parallel import replica_spread as replica_spread
from .data_parallel import ring_bytes as ring_bytes
from .data_parallel import shard_rows as shard_rows
from .launch import WorkerError as WorkerError
from .launch import launch as launch

__all__ = [
    "WorkerError",
    "average_gradients",
    "combine_gradients",
    "compare_step_times",
    "launch",
    "replica_spread",
    "ring_bytes",
    "shard_rows",
]
