"""Networks as linen modules, from images (B, H, W, C) to logits (B, num_classes).

`Transformer`, a model of language, takes tokens (B, T) instead and returns logits (B, T,
num_classes). All have one interface, `model.apply(variables, images, train=...)`. Networks with
batch norm keep running averages in the collection `"batch_stats"`, and need
`mutable=["batch_stats"]` if `train` is True. Networks that draw random numbers in training take
them from the stream `"dropout"`: `rngs={"dropout": key}`.

`save` writes a trained model to disk, and `load` reads it.
"""

from flatjax._cpu import (
    contains_convolution,
    conv_general_dilated,
    conv_general_dilated_cls,
)
from flatjax.models._convnet import SmallConvNet
from flatjax.models._create import CONSTRUCTORS, create
from flatjax.models._densenet import DenseNet, densenet121
from flatjax.models._efficientnet import EfficientNet
from flatjax.models._mlp import MLP
from flatjax.models._pooling import max_pool, mean_pool
from flatjax.models._pyramidnet import PyramidNet, pyramidnet272
from flatjax.models._resnet import ResNet, resnet18, resnet50, resnet110
from flatjax.models._saved import LoadedModel, Predictor, load, save
from flatjax.models._shake_drop import ShakeDrop
from flatjax.models._transformer import Transformer
from flatjax.models._vit import VisionTransformer

__all__ = [
    "CONSTRUCTORS",
    "MLP",
    "DenseNet",
    "EfficientNet",
    "LoadedModel",
    "Predictor",
    "PyramidNet",
    "ResNet",
    "ShakeDrop",
    "SmallConvNet",
    "Transformer",
    "VisionTransformer",
    "contains_convolution",
    "conv_general_dilated",
    "conv_general_dilated_cls",
    "create",
    "densenet121",
    "load",
    "max_pool",
    "mean_pool",
    "pyramidnet272",
    "resnet18",
    "resnet50",
    "resnet110",
    "save",
]
