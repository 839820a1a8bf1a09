"""The checker accepts a thorough test of Hessian-vector products and names what a weaker one lets through."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nnopt import exercises


def make_test(
    *, bent: bool = True, both: bool = True, purity: bool = True, tolerance: float = 1e-9
) -> Callable[[exercises.ProductFunction], object]:
    def accepts(product: exercises.ProductFunction) -> object:
        x = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
        y = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

        def loss(x: Tensor, y: Tensor) -> Tensor:
            if not bent:
                return x[0] * x[1] + 3 * x[0] ** 2 + (x.sum() * y if both else y**2)
            return x[0] ** 3 * x[1] + (x.sum().sin() * y**2 if both else y**3 + x.sum().sin())

        vector = [torch.tensor([0.3, 0.7], dtype=torch.float64), torch.tensor(-1.1, dtype=torch.float64)]
        kept = x.detach().clone(), y.detach().clone()
        found = product(lambda: loss(x, y), [x, y], vector)
        if purity and not (torch.equal(x.detach(), kept[0]) and torch.equal(y.detach(), kept[1])):
            return False
        right = torch.autograd.functional.hvp(loss, kept, tuple(vector))[1]
        return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(found, right, strict=True))

    return accepts


def test_a_thorough_test_passes() -> None:
    verdict = exercises.check_product_test(make_test())
    assert verdict
    assert repr(verdict) == "✓ Your test accepts the correct implementation and refuses all 6 wrong ones."


@pytest.mark.parametrize(
    ("weak", "message"),
    [
        (lambda product: True, "second derivative of the gradient"),
        (make_test(both=False), "forgets how one tensor bends the slope of another"),
        (make_test(bent=False), "one coarse difference of gradients"),
        (make_test(purity=False), "leaves the parameters a little moved"),
        (lambda product: False, "refuses a correct implementation"),
    ],
)
def test_a_weak_test_is_told_what_it_lets_through(
    weak: Callable[[exercises.ProductFunction], object], message: str
) -> None:
    verdict = exercises.check_product_test(weak)
    assert not verdict
    assert message in repr(verdict)
