"""The same steps in PyTorch, the replicas one after another. Only imported if PyTorch is there."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from experiments.benchmarks.jax_steps import GAMMA, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY

NETWORKS = {
    "small_convnet": lambda: nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(7 * 7 * 32, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    ),
    "mlp": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    ),
}


class TorchSteps:
    """The networks of `JaxSteps`, with weights of their own."""

    def __init__(self, model_name: str, images: np.ndarray, labels: np.ndarray, threads: int):
        torch.set_num_threads(threads)
        self.images = [torch.tensor(x.transpose(0, 3, 1, 2).copy()) for x in images]
        self.labels = [torch.tensor(y.astype(np.int64)) for y in labels]
        self.networks = [NETWORKS[model_name]() for _ in images]
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
        """Parameters of one network, to compare with the other side."""
        return sum(parameter.numel() for parameter in self.networks[0].parameters())

    def _gradient(self, replica: int) -> None:
        self.optimizers[replica].zero_grad(set_to_none=True)
        logits = self.networks[replica](self.images[replica])
        nn.functional.cross_entropy(logits, self.labels[replica]).backward()

    def plain(self) -> Callable[[], None]:
        """One step of SGD with Nesterov momentum."""

        def run():
            self._gradient(0)
            self.optimizers[0].step()

        return run

    def rsgd(self) -> Callable[[], None]:
        """One step of Replicated-SGD: replicas in turn, then the coupling, then their steps."""
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
