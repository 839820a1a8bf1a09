"""The checker accepts a thorough test of the orthogonal factor and names the fault that a weaker one lets through."""

from collections.abc import Callable

import pytest
import torch

from nnopt import exercises


def make_test(
    shapes: tuple[tuple[int, int], ...] = ((6, 4), (4, 6)),
    orthogonal: bool = True,
    symmetric: bool = True,
    positive: bool = True,
    purity: bool = True,
) -> Callable[[exercises.FactorFunction], bool]:
    def accepts(factor: exercises.FactorFunction) -> bool:
        generator = torch.Generator().manual_seed(0)
        for shape in shapes:
            matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
            given = matrix.clone()
            found = factor(given)
            rows, wide = (found.mT, matrix.mT) if shape[0] > shape[1] else (found, matrix)
            product = wide @ rows.mT
            checks = [
                not orthogonal or torch.allclose(rows @ rows.mT, torch.eye(len(rows), dtype=torch.float64)),
                not symmetric or torch.allclose(product, product.mT),
                not positive or bool((torch.linalg.eigvals(product).real > 0).all()),
                not purity or torch.equal(given, matrix),
            ]
            if not all(checks):
                return False
        return True

    return accepts


def test_a_thorough_test_passes() -> None:
    verdict = exercises.check_factor_test(make_test())
    assert verdict
    assert "refuses all 6 wrong ones" in repr(verdict)


@pytest.mark.parametrize(
    ("weak", "message"),
    [
        (make_test(orthogonal=False), "only divides by the norm"),
        (make_test(symmetric=False, positive=False), "QR decomposition"),
        (make_test(positive=False), "wrong sign"),
        (make_test(shapes=((4, 6),)), "wide matrices only"),
        (make_test(purity=False), "changes its argument"),
        (lambda factor: False, "refuses a correct implementation"),
    ],
)
def test_a_weak_test_is_told_what_it_lets_through(
    weak: Callable[[exercises.FactorFunction], bool], message: str
) -> None:
    verdict = exercises.check_factor_test(weak)
    assert not verdict
    assert message in repr(verdict)
