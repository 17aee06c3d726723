"""DenseNets of torchvision, and their form for small images."""

from torch import nn
from torchvision.models.densenet import DenseNet, densenet121


def small_images(network: DenseNet) -> DenseNet:
    """With a 3 x 3 convolution and no pooling in place of the stem for ImageNet."""
    channels = network.features.conv0.out_channels
    network.features.conv0 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
    network.features.pool0 = nn.Identity()
    return network


NETWORKS = {  # a network, and the size of its images
    "densenet121": (small_images(densenet121(num_classes=10)), 32),
    "densenet_imagenet": (
        DenseNet(growth_rate=8, block_config=(2, 3, 2), num_init_features=16, num_classes=10),
        38,  # 9 pixels after the stem, and 4 after the first pooling
    ),
}
