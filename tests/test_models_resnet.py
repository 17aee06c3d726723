"""ResNet: parameter counts as published, and the logits of PyTorch."""

import re

import pytest
import torch_logits
from fast import slow

from flatjax import models


def torch_name(modules):
    """The name in torchvision of a module of ours."""
    first, *rest = modules
    if first == "logits":
        return "fc"
    if first == "stem":
        return {"conv": "conv1", "norm": "bn1"}[rest[0]]
    stage, block = map(int, re.fullmatch(r"stage(\d+)_block(\d+)", first).groups())
    layer = {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1"}.get(rest[0], rest[0])
    return f"layer{stage + 1}.{block}.{layer.replace('norm', 'bn')}"


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        (models.resnet18(num_classes=10), 32, 11_173_962),
        (models.resnet18(num_classes=1000, stem="imagenet"), 64, 11_689_512),
        (models.resnet50(num_classes=1000), 64, 25_557_032),
        slow(models.resnet110(num_classes=10), 32, 1_727_962),
        slow(models.resnet110(num_classes=10, shortcut="projection"), 32, 1_730_714),
    ],
    ids=["resnet18", "resnet18 for ImageNet", "resnet50", "resnet110", "resnet110 projection"],
)
def test_number_of_parameters_is_the_published_one(model, size, expected):
    assert torch_logits.count(model, size) == expected


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        slow("resnet18", "eval"),
        slow("resnet18", "train"),
        slow("resnet14_zero_padding", "eval"),
        ("resnet14_zero_padding", "train"),
        slow("resnet50", "eval"),
    ],
)
@pytest.mark.claim("README.md", "give the logits of their PyTorch counterparts")
def test_logits_are_those_of_torch(name, mode):
    model, size = {
        "resnet18": (models.resnet18(), 32),
        "resnet14_zero_padding": (models.resnet110(stage_sizes=(2, 2, 2)), 32),
        "resnet50": (models.resnet50(num_classes=1000), 64),
    }[name]
    expected = torch_logits.reference("resnet")[f"{name}.{mode}"]
    torch_logits.assert_logits_agree(expected, model, size, torch_name, train=mode == "train")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stage_sizes": ()}, ValueError, "stage_sizes must have at least 1 entries"),
        ({"width": 0}, ValueError, "width must be >= 1, got 0"),
        ({"block": "wide"}, ValueError, "block must be one of 'basic', 'bottleneck'; got 'wide'"),
        ({"stem": None}, ValueError, "stem must be one of 'small', 'imagenet'; got None"),
        ({"shortcut": "A"}, ValueError, "shortcut must be one of .*'zero_padding'; got 'A'"),
    ],
)
def test_resnet_refuses_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        models.ResNet(**options)
