"""A byte-level language model: a causal transformer."""

import math

import torch
from torch import Tensor, nn

from nnopt.checks import require_integer

from ._initialization import require_generator

__all__ = ["Transformer", "transformer"]


class CausalAttention(nn.Module):
    """Self-attention in which position t sees positions 0 … t: softmax(QKᵀ/√d + mask) V, per head.

    Written out: torch's fused kernel has no batching rule for ``torch.func.vmap``.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (B, T, width) to (B, T, width)."""
        batch_size, length, width = inputs.shape
        heads = self.queries_keys_values(inputs).view(batch_size, length, 3, self.num_heads, -1)
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(width // self.num_heads)
        visible = torch.ones(length, length, dtype=torch.bool, device=inputs.device).tril()
        weights = scores.masked_fill(~visible, -math.inf).softmax(dim=-1)
        mixed: Tensor = self.output((weights @ values).transpose(1, 2).reshape(batch_size, length, width))
        return mixed


class Block(nn.Module):
    """Attention and a two-layer perceptron, each on normalized input and added to it (pre-norm)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalAttention(width, num_heads)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (B, T, width) to (B, T, width)."""
        inputs = inputs + self.attention(self.attention_norm(inputs))
        outputs: Tensor = inputs + self.perceptron(self.perceptron_norm(inputs))
        return outputs


class Transformer(nn.Module):
    """What :func:`transformer` returns.

    Args:
        width: of the residual stream.
        depth: number of blocks.
        num_heads: attention heads, a divisor of the width.
        context: longest sequence.
        vocabulary_size: number of tokens, 256 for bytes.
    """

    def __init__(self, *, width: int, depth: int, num_heads: int, context: int, vocabulary_size: int = 256) -> None:
        super().__init__()
        self.context = context
        self.tokens = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Parameter(torch.empty(context, width))
        self.blocks = nn.Sequential(*(Block(width, num_heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map integer tokens (B, T) to logits (B, T, vocabulary_size) of the token after each.

        Raises:
            ValueError: T is longer than the context.
        """
        length = tokens.shape[-1]
        if length > self.context:
            raise ValueError(f"tokens must have <= {self.context} positions, got {length}")
        logits: Tensor = self.head(self.norm(self.blocks(self.tokens(tokens.long()) + self.positions[:length])))
        return logits


def transformer(
    width: int,
    depth: int,
    *,
    generator: torch.Generator,
    num_heads: int = 4,
    context: int = 128,
    vocabulary_size: int = 256,
) -> Transformer:
    """Return a causal pre-norm transformer with learned positions, for bytes unless said otherwise.

    Args:
        width: of the residual stream, a multiple of ``num_heads``.
        depth: number of blocks.
        generator: on the CPU, draws the weights: every device gets the same ones.
        num_heads: attention heads.
        context: longest sequence.
        vocabulary_size: number of tokens.

    Returns:
        On the CPU, float32; maps integer tokens (B, T) to logits (B, T, vocabulary_size).

    Raises:
        ValueError: a size is below 1, or the width no multiple of ``num_heads``.
        TypeError: a size is no integer, or the generator no generator.

    Convention:
        Weights ~ N(0, .02²), biases 0; those that end a residual branch ~ N(0, .02²/(2 ``depth``)).

    Source:
        A. Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.3.

    Example:
        >>> model = transformer(32, 2, generator=torch.Generator().manual_seed(0))
        >>> tuple(model(torch.zeros(3, 7, dtype=torch.uint8)).shape)
        (3, 7, 256)
    """
    require_generator(generator)
    sizes = {
        "width": width,
        "depth": depth,
        "num_heads": num_heads,
        "context": context,
        "vocabulary_size": vocabulary_size,
    }
    for name, size in sizes.items():
        require_integer(name, size, minimum=1)
    if width % num_heads:
        raise ValueError(f"width must be a multiple of num_heads = {num_heads}, got {width}")
    with torch.random.fork_rng(devices=[]):
        model = Transformer(**sizes)
    _draw(model, depth, generator)
    return model


@torch.no_grad()
def _draw(model: Transformer, depth: int, generator: torch.Generator) -> None:
    for name, parameter in model.named_parameters():
        if "norm" in name:
            continue  # 1 and 0
        if name.endswith("bias"):
            parameter.zero_()
            continue
        # each block adds two branches to the stream: their ends are drawn smaller so that its variance stays
        is_end = name.endswith(("attention.output.weight", "perceptron.2.weight"))
        parameter.normal_(0.0, 0.02 / math.sqrt(2 * depth) if is_end else 0.02, generator=generator)
