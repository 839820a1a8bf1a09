import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from nnopt.devices import available_devices
from nnopt.models import convnet, mlp, resnet, transformer

Factory = Callable[[torch.Generator], nn.Module]
FACTORIES: dict[str, tuple[Factory, Tensor]] = {
    "mlp": (lambda g: mlp([12, 8, 3], generator=g), torch.linspace(-1, 1, 60).view(5, 1, 3, 4)),
    "convnet": (
        lambda g: convnet([3, 4], generator=g, image_shape=(1, 8, 4)),
        torch.linspace(-1, 1, 160).view(5, 1, 8, 4),
    ),
    "resnet": (lambda g: resnet([3, 4], generator=g).eval(), torch.linspace(-1, 1, 960).view(5, 3, 8, 8)),
    "transformer": (
        lambda g: transformer(8, 2, generator=g, num_heads=2, context=7),
        torch.arange(35).view(5, 7) * 7 % 256,
    ),
}


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize("name", FACTORIES)
def test_every_model_vectorizes_over_copies_without_a_warning(name: str) -> None:
    make, inputs = FACTORIES[name]
    models = [make(seeded(n)) for n in range(3)]
    parameters, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")

    def forward(parameter: dict[str, Tensor], buffer: dict[str, Tensor]) -> Tensor:
        outputs: Tensor = functional_call(skeleton, (parameter, buffer), (inputs,))
        return outputs

    stacked = vmap(forward)(parameters, buffers)
    for copy_, model in zip(stacked, models, strict=True):
        torch.testing.assert_close(copy_, model(inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("name", FACTORIES)
def test_every_model_runs_on_every_device_and_nearly_agrees(name: str, device: torch.device) -> None:
    make, inputs = FACTORIES[name]
    reference = make(seeded(0))
    moved = make(seeded(0)).to(device)
    outputs = moved(inputs.to(device))
    assert outputs.device.type == device.type
    torch.testing.assert_close(outputs.cpu(), reference(inputs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FACTORIES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    make, inputs = FACTORIES[name]
    model = make(seeded(0))
    model(inputs).square().sum().backward()
    # the keys' bias shifts all scores of a query alike, and the softmax forgets it: its gradient is zero
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert all(bool(p.grad.any()) for p in model.parameters() if p.grad is not None)


def test_all_weights_come_from_the_generator() -> None:
    for make, _ in FACTORIES.values():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            first = make(seeded(0))
            torch.manual_seed(2)
            second = make(seeded(0))
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b)
