"""The same steps in PyTorch; imported only if PyTorch is installed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from experiments.benchmarks.jax_steps import (
    AVERAGING_DECAY,
    GAMMA,
    LEARNING_RATE,
    MOMENTUM,
    NOISE_SCALE,
    WEIGHT_DECAY,
)


class Block(nn.Module):
    """A basic residual block: two convolutions, and a projection if shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.branch = nn.Sequential(
            *_conv_and_norm(inputs, outputs, 3, stride),
            nn.ReLU(),
            *_conv_and_norm(outputs, outputs, 3, 1),
        )
        changes = stride > 1 or inputs != outputs
        projection = _conv_and_norm(inputs, outputs, 1, stride) if changes else ()
        self.shortcut = nn.Sequential(*projection)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns maps (B, outputs, H / stride, W / stride)."""
        return nn.functional.relu(self.branch(x) + self.shortcut(x))


def _conv_and_norm(inputs, outputs, size, stride):
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return conv, nn.BatchNorm2d(outputs)


def _resnet18():
    blocks = [
        Block(max(64, width // (2 if first else 1)), width, 2 if first and width > 64 else 1)
        for width in (64, 128, 256, 512)
        for first in (True, False)
    ]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    return nn.Sequential(*_conv_and_norm(3, 64, 3, 1), nn.ReLU(), *blocks, *head)


def _small_convnet(channels=1, side=28, features=(16, 32), hidden=(128,)):
    first, second = features
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear((side // 4) ** 2 * second, *hidden),
        nn.ReLU(),
        nn.Linear(*hidden, 10),
    )


NETWORKS = {
    "small_convnet": _small_convnet,
    "mlp": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    ),
    "resnet18": _resnet18,
}


class TorchSteps:
    """The networks of `JaxSteps`, with their own weights.

    Args:
      model_name: a name of `NETWORKS`.
      images: images of each replica, as in `JaxSteps`.
      labels: labels of each replica.
      threads: number of threads of a CPU.
      device: "cpu" or "cuda". On "cuda", channels are last in memory.
      half: whether products are computed in bfloat16 (autocast).
      compiled: whether forward pass and loss are compiled (`torch.compile`).
      **options: options of the network.
    """

    def __init__(
        self,
        model_name: str,
        images: np.ndarray,
        labels: np.ndarray,
        threads: int,
        *,
        device: str = "cpu",
        half: bool = False,
        compiled: bool = False,
        **options: Any,
    ):
        torch.set_num_threads(threads)
        self._device, self._half = device, half
        layout = torch.channels_last if device == "cuda" else torch.contiguous_format
        place = {"device": device, "memory_format": layout}
        self.images = [torch.tensor(x.transpose(0, 3, 1, 2).copy()).to(**place) for x in images]
        self.labels = [torch.tensor(y.astype(np.int64), device=device) for y in labels]
        self.networks = [NETWORKS[model_name](**options).to(**place) for _ in images]
        self._loss = torch.compile(self._loss_of) if compiled else self._loss_of
        self.optimizers = [
            torch.optim.SGD(
                network.parameters(),
                lr=LEARNING_RATE,
                momentum=MOMENTUM,
                nesterov=True,
                weight_decay=WEIGHT_DECAY,
                foreach=True,
            )
            for network in self.networks
        ]

    def num_params(self) -> int:
        """Counts the parameters of one network, to compare with JAX's."""
        return sum(parameter.numel() for parameter in self.networks[0].parameters())

    def _loss_of(self, network, images, labels):
        with torch.autocast(self._device, torch.bfloat16, enabled=self._half):
            logits = network(images)
        return nn.functional.cross_entropy(logits.float(), labels)

    def _gradient(self, replica: int) -> None:
        self.optimizers[replica].zero_grad(set_to_none=True)
        batch = self.images[replica], self.labels[replica]
        self._loss(self.networks[replica], *batch).backward()

    def wait(self) -> None:
        """Waits for the device."""
        if self._device == "cuda":
            torch.cuda.synchronize()

    def plain(self) -> Callable[[], None]:
        """Makes one step of SGD with Nesterov momentum."""

        def run():
            self._gradient(0)
            self.optimizers[0].step()

        return run

    def rsgd(self) -> Callable[[], None]:
        """Makes one step of Replicated-SGD: gradients in turn, the coupling, the updates."""
        parameters = [list(network.parameters()) for network in self.networks]

        def run():
            for replica in range(len(self.networks)):
                self._gradient(replica)
            with torch.no_grad():
                center = [torch.stack(copies).mean(0) for copies in zip(*parameters, strict=True)]
                for replica in parameters:
                    grads = [parameter.grad for parameter in replica]
                    torch._foreach_add_(grads, replica, alpha=GAMMA)
                    torch._foreach_add_(grads, center, alpha=-GAMMA)
            for optimizer in self.optimizers:
                optimizer.step()

        return run

    def esgd(self, inner_steps: int) -> Callable[[], None]:
        """Makes one update of Entropy-SGD: Langevin steps, then the anchor's step.

        This is the rule of Chaudhari et al. (2017) with the conventions of `flatjax.entropy_sgd`.
        """
        weights = list(self.networks[0].parameters())
        outer = [torch.zeros_like(weight) for weight in weights]

        def run():
            anchor = [weight.detach().clone() for weight in weights]
            mean = [weight.clone() for weight in anchor]
            velocity = [torch.zeros_like(weight) for weight in anchor]
            for _ in range(inner_steps):
                self._gradient(0)
                with torch.no_grad():
                    force = [weight.grad for weight in weights]
                    torch._foreach_add_(force, weights, alpha=WEIGHT_DECAY + GAMMA)
                    torch._foreach_add_(force, anchor, alpha=-GAMMA)
                    _nesterov(force, velocity)
                    torch._foreach_add_(weights, force, alpha=-LEARNING_RATE)
                    noise = [torch.randn_like(weight) for weight in weights]
                    torch._foreach_add_(
                        weights, noise, alpha=NOISE_SCALE * (2 * LEARNING_RATE) ** 0.5
                    )
                    torch._foreach_lerp_(mean, weights, 1 - AVERAGING_DECAY)
            with torch.no_grad():
                step = torch._foreach_sub(anchor, mean)
                _nesterov(step, outer)
                torch._foreach_sub_(anchor, step)
                torch._foreach_copy_(weights, anchor)

        return run


def _nesterov(step, velocity):
    torch._foreach_mul_(velocity, MOMENTUM)
    torch._foreach_add_(velocity, step)
    torch._foreach_add_(step, velocity, alpha=MOMENTUM)
