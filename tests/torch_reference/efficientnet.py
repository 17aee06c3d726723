"""EfficientNets of torchvision, with nothing dropped."""

from torch import nn
from torchvision.models.efficientnet import EfficientNet, MBConvConfig, efficientnet_b0

STAGES = (  # of B0
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


def small_images(network: EfficientNet) -> EfficientNet:
    """With a first convolution that sees every pixel."""
    network.features[0][0].stride = (1, 1)
    return network


def scaled(width: float, depth: float, **options) -> EfficientNet:
    """The network of these multipliers."""
    stages = [MBConvConfig(*stage, width_mult=width, depth_mult=depth) for stage in STAGES]
    return EfficientNet(stages, dropout=0.0, stochastic_depth_prob=0.0, num_classes=10, **options)


NETWORKS = {  # a network, and the size of its images
    "efficientnet_b0": (
        small_images(efficientnet_b0(num_classes=10, dropout=0.0, stochastic_depth_prob=0.0)),
        32,
    ),
    "scaled": (  # with the batch norm of B5 and larger
        scaled(0.4, 0.5, norm_layer=lambda width: nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)),
        45,
    ),
}
