"""The deep networks of the paper: a file for each row of its table.

    python -m experiments reproduce --table
    python -m experiments reproduce cifar10-resnet18 --only rSGD

Every file gives, for each algorithm, the command, the paper's result and the recipe. Results of the
paper are quoted as "reported by the paper". `--table` computes hours from operations, at any speed.

Replicas start independently. They are pulled to their center after the optimizer's step, decoupled
from the gradient: the same force as the paper's, but stable for any strength. gamma_0 is measured
(coupling energy = loss), and gamma grows by 1e4. Runs whose label ends in "as published" have the
force in the gradient and the weight decay of the authors' code; each file says which choices are
ours. Variants run only if you name them: `--only "rSGD, as published"`. `--dataset folder:PATH`
takes the images from a folder instead of TensorFlow Datasets.
"""

from collections.abc import Mapping

from experiments.configs.deep import (
    cifar10_pyramidnet,
    cifar10_resnet18,
    cifar10_resnet110,
    cifar10_smallconvnet,
    cifar10_vit,
    cifar100_efficientnet,
    cifar100_pyramidnet,
    fashion_mnist_resnet8,
    tiny_imagenet_densenet121,
    tiny_imagenet_resnet50,
)
from experiments.studies.reproduce.description import Row

ROWS: Mapping[str, Row] = {
    "cifar10-smallconvnet": cifar10_smallconvnet.STUDY,
    "cifar10-resnet18": cifar10_resnet18.STUDY,
    "cifar10-resnet110": cifar10_resnet110.STUDY,
    "cifar10-pyramidnet": cifar10_pyramidnet.STUDY,
    "cifar100-pyramidnet": cifar100_pyramidnet.STUDY,
    "cifar100-efficientnet": cifar100_efficientnet.STUDY,
    "tiny-imagenet-resnet50": tiny_imagenet_resnet50.STUDY,
    "tiny-imagenet-densenet121": tiny_imagenet_densenet121.STUDY,
    "cifar10-vit": cifar10_vit.STUDY,
    "fashion-mnist-resnet8": fashion_mnist_resnet8.STUDY,
}


def row_of(name: str) -> Row:
    """Returns the row of this name.

    Raises:
      ValueError: there is no such row.
    """
    if name not in ROWS:
        raise ValueError(f"row must be one of {', '.join(ROWS)}; got {name!r}.")
    return ROWS[name]
