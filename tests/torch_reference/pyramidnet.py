"""PyramidNet (Han et al. 2017), in our own words: torchvision has none.

ShakeDrop is absent, so that values when training are not random; its expectation, when not
training, multiplies each branch.
"""

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """A residual bottleneck block whose shortcut has no parameters."""

    def __init__(self, inputs: int, channels: int, stride: int, expectation: float):
        super().__init__()
        self.stride, self.expectation = stride, expectation
        self.branch = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 4 * channels, 1, bias=False),
            nn.BatchNorm2d(4 * channels),
        )

    def forward(self, x):
        """Maps of more channels, and of half the height and width if the stride is 2."""
        y = self.branch(x)
        if not self.training:
            y = self.expectation * y
        x = functional.avg_pool2d(x, self.stride)
        return y + functional.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))


class PyramidNet(nn.Module):
    """Three stages of `n` blocks; `alpha` channels are added in all, in equal steps."""

    def __init__(self, n: int, alpha: int, final_keep_probability: float, num_classes: int = 10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        blocks, inputs, width = [], 16, 16.0
        for index in range(3 * n):
            width += alpha / (3 * n)
            stride = 2 if index in (n, 2 * n) else 1
            dropped = (1 - final_keep_probability) * (index + 1) / (3 * n)
            blocks.append(Block(inputs, round(width), stride, 1 - dropped))
            inputs = 4 * round(width)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x):
        """Logits."""
        x = torch.relu(self.norm(self.blocks(self.stem(x))))
        return self.fc(x.mean((2, 3)))


NETWORKS = {  # a network, and the size of its images
    "pyramidnet20": (PyramidNet(n=2, alpha=14, final_keep_probability=0.5), 16),
    "pyramidnet272": (PyramidNet(n=30, alpha=200, final_keep_probability=0.5), 32),
}
