"""Small models that a CPU trains in seconds; they know nothing of training."""

from .convnet import convnet as convnet
from .mlp import mlp as mlp
from .resnet import ResidualBlock as ResidualBlock
from .resnet import resnet as resnet
from .transformer import Transformer as Transformer
from .transformer import transformer as transformer

__all__ = ["ResidualBlock", "Transformer", "convnet", "mlp", "resnet", "transformer"]
