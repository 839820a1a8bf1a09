import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from nnopt.data import batches
from nnopt.devices import available_devices
from nnopt.types import Batch


def rows(num_rows: int, dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randint(0, 256, (num_rows, 2, 3), generator=generator).to(dtype)
    return inputs, torch.arange(num_rows)


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def equal(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) for left, right in zip(first, second) for a, b in zip(left, right)
    )


def data_loader(inputs: Tensor, targets: Tensor, **settings: object) -> list[Batch]:
    loader = DataLoader(TensorDataset(inputs, targets), **settings)  # type: ignore[arg-type]
    return [(a, b) for a, b in loader]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    num_rows=st.integers(1, 40),
    batch_size=st.integers(1, 45),
    drop_last=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.uint8]),
    seed=st.integers(0, 2**40),
)
def test_three_shuffled_epochs_equal_the_data_loader_bit_for_bit(
    num_rows: int, batch_size: int, drop_last: bool, dtype: torch.dtype, seed: int
) -> None:
    if drop_last:
        batch_size = min(batch_size, num_rows)
    inputs, targets = rows(num_rows, dtype)
    ours, theirs = seeded(seed), seeded(seed)
    loader = batches(inputs, targets, batch_size=batch_size, generator=ours, drop_last=drop_last)
    other = DataLoader(
        TensorDataset(inputs, targets),
        batch_size=batch_size,
        shuffle=True,
        generator=theirs,
        drop_last=drop_last,
    )
    assert len(loader) == len(other)
    for _ in range(3):
        assert equal(list(loader), [(a, b) for a, b in other])
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_without_the_hidden_draws_the_data_loader_would_have_other_batches() -> None:
    inputs, targets = rows(20)
    theirs = data_loader(inputs, targets, batch_size=20, shuffle=True, generator=seeded(5))
    naive = torch.randperm(20, generator=seeded(5))
    assert not torch.equal(theirs[0][1], naive)


def test_rows_stay_in_order_without_a_generator_and_equal_the_data_loader() -> None:
    inputs, targets = rows(11)
    loader = batches(inputs, targets, batch_size=4)
    assert equal(list(loader), data_loader(inputs, targets, batch_size=4))
    assert [len(b) for _, b in loader] == [4, 4, 3]
    assert [len(b) for _, b in batches(inputs, targets, batch_size=4, drop_last=True)] == [4, 4]


def test_every_epoch_visits_every_row_once_in_a_new_order() -> None:
    inputs, targets = rows(50)
    loader = batches(inputs, targets, batch_size=7, generator=seeded(1))
    first, second = (torch.cat([b for _, b in loader]) for _ in range(2))
    assert torch.equal(first.sort().values, targets)
    assert torch.equal(second.sort().values, targets)
    assert not torch.equal(first, second)


def test_inputs_and_targets_of_a_row_stay_together() -> None:
    inputs, targets = rows(30)
    for a, b in batches(inputs, targets, batch_size=8, generator=seeded(2)):
        assert torch.equal(a, inputs[b])


def test_the_generators_state_before_an_epoch_replays_it() -> None:
    inputs, targets = rows(23)
    generator = seeded(3)
    loader = batches(inputs, targets, batch_size=5, generator=generator)
    list(loader)
    state = generator.get_state()
    second = list(loader)
    resumed = batches(inputs, targets, batch_size=5, generator=torch.Generator())
    assert resumed.generator is not None
    resumed.generator.set_state(state)
    assert equal(list(resumed), second)


def test_an_epoch_broken_off_leaves_the_generator_as_a_whole_one_does() -> None:
    inputs, targets = rows(23)
    whole, broken = seeded(4), seeded(4)
    list(batches(inputs, targets, batch_size=5, generator=whole))
    next(iter(batches(inputs, targets, batch_size=5, generator=broken)))
    assert torch.equal(whole.get_state(), broken.get_state())


def test_no_global_randomness_is_used() -> None:
    inputs, targets = rows(9)
    before = torch.get_rng_state()
    list(batches(inputs, targets, batch_size=2, generator=seeded(0)))
    assert torch.equal(torch.get_rng_state(), before)


def test_shuffled_batches_are_copies_so_that_changing_one_leaves_the_data_alone() -> None:
    inputs, targets = rows(6)
    kept = inputs.clone()
    for a, _ in batches(inputs, targets, batch_size=2, generator=seeded(0)):
        a.zero_()
    assert torch.equal(inputs, kept)


@pytest.mark.parametrize("device", available_devices(), ids=str)
def test_batches_stay_on_the_device_of_the_data_in_the_same_order(device: torch.device) -> None:
    inputs, targets = rows(17)
    here = list(batches(inputs.to(device), targets.to(device), batch_size=4, generator=seeded(6)))
    reference = list(batches(inputs, targets, batch_size=4, generator=seeded(6)))
    assert all(a.device.type == device.type and b.device.type == device.type for a, b in here)
    assert equal([(a.cpu(), b.cpu()) for a, b in here], reference)


def test_bad_arguments_are_refused_by_name() -> None:
    inputs, targets = rows(5)
    with pytest.raises(ValueError, match="inputs and targets must have as many rows, got 5 and 4"):
        batches(inputs, targets[:4], batch_size=2)
    with pytest.raises(ValueError, match="inputs must not be empty"):
        batches(inputs[:0], targets[:0], batch_size=2)
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        batches(inputs, targets, batch_size=0)
    with pytest.raises(TypeError, match="batch_size must be an integer, got float"):
        batches(inputs, targets, batch_size=2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size must be <= 5, the rows, with drop_last, got 6"):
        batches(inputs, targets, batch_size=6, drop_last=True)
    with pytest.raises(TypeError, match="generator must be Generator or NoneType, got int"):
        batches(inputs, targets, batch_size=2, generator=0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="inputs must be Tensor, got list"):
        batches([1, 2], targets, batch_size=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="targets must have rows, got a single number"):
        batches(inputs, torch.tensor(1), batch_size=2)
    with pytest.raises(TypeError, match="drop_last must be bool, got int"):
        batches(inputs, targets, batch_size=2, drop_last=1)  # type: ignore[arg-type]


def test_data_on_two_devices_is_refused() -> None:
    inputs, targets = rows(5)
    with pytest.raises(ValueError, match="must be on one device, got cpu and meta"):
        batches(inputs, targets.to("meta"), batch_size=2)
