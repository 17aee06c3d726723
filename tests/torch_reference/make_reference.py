"""Logits of networks in PyTorch, for the tests to compare ours with: <family>.npz.

Run by hand where PyTorch is installed (made with torch 2.14.1, torchvision 0.29.1, NumPy 2.4.6):

    python tests/torch_reference/make_reference.py [family ...]

A family is a file beside this one with `NETWORKS`: by name, a network and the size of its images.
Weights and images are those of `weights.py`. Of each network the file holds `<name>.eval` and
`<name>.train`, the logits of two images by running statistics and by those of the two (dropout
and the like must be absent or switched off), and `<name>.parameters`, their number. `versions`
says what computed them.
"""

import importlib
import pathlib
import sys

import numpy as np
import torch
import torchvision
import weights

FAMILIES = ("resnet", "densenet", "pyramidnet", "efficientnet", "vit")


def load_weights(network: torch.nn.Module) -> None:
    """Sets every parameter and statistic by the rule of `weights.py`."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    values = weights.state_dict(shapes)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})


@torch.no_grad()
def reference(network: torch.nn.Module, size: int) -> dict[str, np.ndarray]:
    """Logits and the number of parameters."""
    load_weights(network)
    images = torch.from_numpy(weights.images(2, size, size, 3)).permute(0, 3, 1, 2)
    return {
        "eval": network.eval()(images).numpy(),  # first: training moves the statistics
        "train": network.train()(images).numpy(),
        "parameters": np.array(sum(parameter.numel() for parameter in network.parameters())),
    }


def main() -> None:
    """Writes the file of every family asked for, or of all."""
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    for family in sys.argv[1:] or FAMILIES:
        arrays = {"versions": np.array(f"{versions}, NumPy {np.__version__}")}
        for name, (network, size) in importlib.import_module(family).NETWORKS.items():
            for key, value in reference(network, size).items():
                arrays[f"{name}.{key}"] = value
                print(f"{name}.{key}: {value.ravel()[:4]}, deviation {value.std():.3g}")
        np.savez_compressed(pathlib.Path(__file__).with_name(f"{family}.npz"), **arrays)


if __name__ == "__main__":
    main()
