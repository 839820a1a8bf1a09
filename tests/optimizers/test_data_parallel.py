"""Every optimizer class in two ranks of one group: the ranks stay equal, and walk like one process."""

import pytest
import torch
from torch import Tensor

from nnopt.distributed import launch
from tests.optimizers import workers


@pytest.fixture(scope="module")
def trained() -> list[dict[str, list[tuple[Tensor, Tensor]]]]:
    return launch(workers.train_with_every_class, 2)


@pytest.mark.parametrize("name", workers.MAKERS)
def test_two_ranks_stay_equal_bit_for_bit_and_walk_like_one_process(
    trained: list[dict[str, list[tuple[Tensor, Tensor]]]], name: str
) -> None:
    assert len(trained[0][name]) == 4
    for (one, wanted), (other, _) in zip(trained[0][name], trained[1][name], strict=True):
        assert torch.equal(one, other)
        assert one.isfinite().all()
        # eigenvectors of a gradient without full rank are a matter of rounding, also that of an average
        tolerance = 1e-1 if name == "SOAP" else 1e-12
        torch.testing.assert_close(one, wanted, rtol=tolerance, atol=tolerance)


def test_the_rows_of_one_rank_alone_lead_elsewhere() -> None:
    generator = torch.Generator().manual_seed(1)
    rows, targets = (torch.randn(8, n, generator=generator, dtype=torch.float64) for n in (6, 3))
    for name, make in workers.MAKERS.items():
        ends = []
        for some in (slice(None), slice(0, None, 2)):
            model = workers.network()
            ends.append(workers.train(model, make(model.parameters()), rows[some], targets[some]))
        assert float((ends[0] - ends[1]).abs().max()) > 1e-3, name
