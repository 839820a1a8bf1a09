"""The device comes from the environment, and from nowhere else."""

import pytest
import torch

from nnopt.devices import available_devices, default_device, synchronize


def test_the_environment_names_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNOPT_DEVICE", "cpu")
    assert default_device() == torch.device("cpu")
    monkeypatch.setenv("NNOPT_DEVICE", "auto")
    assert default_device() == available_devices()[-1]


def test_a_bad_name_and_a_missing_device_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNOPT_DEVICE", "gpu")
    with pytest.raises(ValueError, match="NNOPT_DEVICE must be one of 'auto', 'cpu', 'cuda', got 'gpu'"):
        default_device()
    monkeypatch.setenv("NNOPT_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="finds no CUDA device"):
        default_device()


@pytest.mark.parametrize("device", available_devices(), ids=str)
def test_synchronize_works_on_each_device(device: torch.device) -> None:
    value = torch.ones(3, device=device) * 2
    synchronize(device)
    assert value.tolist() == [2.0, 2.0, 2.0]
