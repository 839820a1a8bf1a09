"""Right and planted wrong averages over ranks: in a file of their own, as readers have to write theirs."""

import threading

import torch
import torch.distributed as dist
from torch import Tensor

RIGHT = ("in_one_message", "count_first")
WRONG = {
    "no_exchange": "With parts of 3 and 1 rows rank 0 gets",
    "plain_mean": "With parts of 3 and 1 rows rank 0 gets",
    "sum_of_means": "With parts of 3 and 1 rows rank 0 gets",
    "weighted_and_divided_by_ranks": "With parts of 3 and 1 rows rank 0 gets",
    "nan_of_the_empty_rank": "With parts of 6 and 0 rows rank 0 gets nan",
    "only_rank_0_knows": "With parts of 3 and 1 rows rank 1 gets",
    "changes_its_input": "changes the gradient that it is given",
    "fails": "your function fails: RuntimeError: no",
}


def in_one_message(gradient: Tensor, num_rows: int) -> Tensor:
    mine = gradient * num_rows if num_rows else torch.zeros_like(gradient)
    message = torch.cat([mine, torch.tensor([num_rows], dtype=gradient.dtype)])
    dist.all_reduce(message)
    return message[:-1] / message[-1]


def count_first(gradient: Tensor, num_rows: int) -> Tensor:
    total = torch.tensor(num_rows)
    dist.all_reduce(total)
    share = (gradient * num_rows / total).nan_to_num()
    dist.all_reduce(share)
    return share


def no_exchange(gradient: Tensor, num_rows: int) -> Tensor:
    return gradient


def sum_of_means(gradient: Tensor, num_rows: int) -> Tensor:
    total = gradient.clone()
    dist.all_reduce(total)
    return total


def plain_mean(gradient: Tensor, num_rows: int) -> Tensor:
    return sum_of_means(gradient, num_rows) / dist.get_world_size()


def weighted_and_divided_by_ranks(gradient: Tensor, num_rows: int) -> Tensor:
    return sum_of_means(gradient * num_rows, num_rows) / dist.get_world_size()


def nan_of_the_empty_rank(gradient: Tensor, num_rows: int) -> Tensor:
    total = torch.tensor(num_rows)
    dist.all_reduce(total)
    return sum_of_means(gradient * num_rows / total, num_rows)


def only_rank_0_knows(gradient: Tensor, num_rows: int) -> Tensor:
    right = count_first(gradient, num_rows)
    return right if dist.get_rank() == 0 else gradient


def changes_its_input(gradient: Tensor, num_rows: int) -> Tensor:
    right = count_first(gradient, num_rows)
    gradient.zero_()
    return right


def fails(gradient: Tensor, num_rows: int) -> Tensor:
    raise RuntimeError("no")


def only_where_there_are_rows(gradient: Tensor, num_rows: int) -> Tensor:
    if num_rows == 0:
        threading.Event().wait()
    return in_one_message(gradient, num_rows)
