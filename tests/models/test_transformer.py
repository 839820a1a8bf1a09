import importlib
import math

import pytest
import torch
from torch.nn import functional

from nnopt.models import Transformer, transformer

CausalAttention = importlib.import_module("nnopt.models.transformer").CausalAttention


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def small(number: int = 0) -> Transformer:
    return transformer(12, 2, generator=seeded(number), num_heads=3, context=9, vocabulary_size=20)


def lively(number: int = 0) -> Transformer:
    """Return a model whose attention is far from uniform, so that its errors are large."""
    model = small(number)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=seeded(number + 1)) * 0.5)
    return model


def some_tokens(number: int = 1) -> torch.Tensor:
    return torch.randint(0, 20, (4, 9), generator=seeded(number))


def test_parameters_are_counted_by_hand() -> None:
    block = 2 * (2 * 12) + (12 * 36 + 36) + (12 * 12 + 12) + (12 * 48 + 48) + (48 * 12 + 12)
    expected = 20 * 12 + 9 * 12 + 2 * block + 2 * 12 + (12 * 20 + 20)
    assert sum(p.numel() for p in small().parameters()) == expected


def test_a_byte_has_no_influence_on_earlier_logits_and_some_on_later_ones() -> None:
    model, tokens = lively(), some_tokens()
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 20
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert bool((before[:, 5:] != after[:, 5:]).any(dim=-1).all())


def test_a_shorter_text_has_the_logits_of_the_longer_ones_start() -> None:
    model, tokens = lively(), some_tokens()
    torch.testing.assert_close(model(tokens[:, :4]), model(tokens)[:, :4])


def test_attention_equals_torchs_own() -> None:
    attention = lively().double().get_submodule("blocks.0.attention")
    assert isinstance(attention, CausalAttention)
    inputs = torch.randn(2, 7, 12, dtype=torch.float64, generator=seeded(2))
    heads = attention.queries_keys_values(inputs).view(2, 7, 3, 3, 4).permute(2, 0, 3, 1, 4)
    queries, keys, values = heads
    mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    expected = attention.output(mixed.transpose(1, 2).reshape(2, 7, 12))
    torch.testing.assert_close(attention(inputs), expected, rtol=1e-12, atol=1e-12)


def test_equal_generators_give_equal_weights_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = small(3), small(3), small(4)
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.positions, other.positions)


def test_a_fresh_model_predicts_all_bytes_about_equally() -> None:
    model = transformer(64, 2, generator=seeded())
    tokens = torch.randint(0, 256, (4, 64), generator=seeded(1))
    loss = functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    assert loss.item() == pytest.approx(math.log(256), abs=0.05)


def test_branches_end_with_smaller_weights() -> None:
    model = transformer(64, 8, generator=seeded())
    assert model.get_parameter("blocks.3.perceptron.0.weight").std().item() == pytest.approx(0.02, rel=0.05)
    assert model.get_parameter("blocks.3.perceptron.2.weight").std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert model.get_parameter("blocks.3.attention.output.weight").std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert int(model.head.bias.count_nonzero()) == 0


def test_bytes_and_integers_are_the_same_tokens() -> None:
    model, tokens = lively(), some_tokens()
    assert torch.equal(model(tokens.to(torch.uint8)), model(tokens))


def test_too_long_a_text_and_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens must have <= 9 positions, got 10"):
        small()(torch.zeros(1, 10, dtype=torch.int64))
    with pytest.raises(ValueError, match="width must be a multiple of num_heads = 4, got 30"):
        transformer(30, 2, generator=seeded())
    with pytest.raises(ValueError, match=r"depth must be >= 1, got 0"):
        transformer(32, 0, generator=seeded())
    with pytest.raises(TypeError, match="generator must be Generator, got NoneType"):
        transformer(32, 1, generator=None)  # type: ignore[arg-type]
