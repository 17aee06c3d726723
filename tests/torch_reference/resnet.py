"""ResNets: torchvision's, their form for small images, and that of He et al. for CIFAR."""

import torch
from torch import nn
from torch.nn import functional
from torchvision.models import resnet


def small_images(network: resnet.ResNet) -> resnet.ResNet:
    """With a 3 x 3 convolution and no pooling in place of the stem for ImageNet."""
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


class ZeroPadding(nn.Module):
    """The shortcut without parameters: every other pixel, and channels of zeros."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        """Half the height and width, `channels` channels."""
        x = x[:, :, ::2, ::2]
        return functional.pad(x, (0, 0, 0, 0, 0, self.channels - x.shape[1]))


class CifarResNet(nn.Module):
    """Three stages of n basic blocks with 16, 32 and 64 channels."""

    def __init__(self, n: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        block = resnet.BasicBlock
        stages = []
        for channels in (16, 32, 64):
            first = block(16, 16)
            if channels > 16:
                first = block(channels // 2, channels, 2, ZeroPadding(channels))
            stages.append(nn.Sequential(first, *[block(channels, channels) for _ in range(n - 1)]))
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        """Logits."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


NETWORKS = {  # a network, and the size of its images
    "resnet18": (small_images(resnet.resnet18(num_classes=10)), 32),
    "resnet50": (resnet.resnet50(), 64),
    "resnet14_zero_padding": (CifarResNet(2), 32),
    "resnet110": (CifarResNet(18), 32),
}
