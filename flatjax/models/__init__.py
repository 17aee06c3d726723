"""Networks, as Flax linen modules: images (B, H, W, C) to logits (B, num_classes).

A model of language, `Transformer`, takes tokens (B, T) instead and gives logits (B, T,
num_classes). All are called alike, `model.apply(variables, images, train=...)`. Those with batch
norm keep its running averages in the collection `"batch_stats"` and need `mutable=["batch_stats"]`
when `train` is True. Those that draw random numbers in training take them from the stream
`"dropout"`: `rngs={"dropout": key}`.

`save` and `load` keep trained models on disk.
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
