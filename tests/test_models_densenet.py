"""DenseNet: parameter counts as published, and the logits of PyTorch."""

import re

import pytest
import torch_logits
from fast import slow

from flatjax import models

SMALL = models.DenseNet(stage_sizes=(2, 3, 2), growth=8, stem="imagenet")


def torch_name(modules):
    """The name in torchvision of a module of ours."""
    first, *rest = modules
    if first == "logits":
        return "classifier"
    if first == "norm":
        return "features.norm5"
    if first == "stem":
        return f"features.{rest[0]}0"
    if match := re.fullmatch(r"stage(\d+)_layer(\d+)", first):
        stage, layer = map(int, match.groups())
        first = f"denseblock{stage + 1}.denselayer{layer + 1}"
    return f"features.{first}.{rest[0]}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        slow(models.densenet121(num_classes=10), 6_956_426, id="small images"),
        pytest.param(
            models.densenet121(num_classes=1000, stem="imagenet"), 7_978_856, id="ImageNet"
        ),
    ],
)
def test_number_of_parameters_is_the_published_one(model, expected):
    assert torch_logits.count(model, 32) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        slow("densenet121", "eval"),
        slow("densenet_imagenet", "eval"),
        ("densenet_imagenet", "train"),
    ],
)
@pytest.mark.claim("README.md", "give the logits of their PyTorch counterparts")
def test_logits_are_those_of_torch(name, mode):
    model, size = {"densenet121": (models.densenet121(), 32), "densenet_imagenet": (SMALL, 38)}[
        name
    ]
    expected = torch_logits.reference("densenet")[f"{name}.{mode}"]
    torch_logits.assert_logits_agree(expected, model, size, torch_name, train=mode == "train")


@pytest.mark.parametrize(("stem", "minimum"), [("small", 4), ("imagenet", 13)])
def test_densenet_refuses_images_that_its_pooling_would_leave_empty(stem, minimum):
    model = models.DenseNet(stage_sizes=(1, 1, 1), growth=2, stem=stem)
    torch_logits.init_shapes(model, minimum)
    with pytest.raises(ValueError, match=f"at least {minimum} pixels"):
        torch_logits.init_shapes(model, minimum - 1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stage_sizes": (3, 0)}, ValueError, r"stage_sizes\[1\] must be >= 1, got 0"),
        ({"growth": 0}, ValueError, "growth must be >= 1, got 0"),
        ({"stem": "large"}, ValueError, "stem must be one of 'small', 'imagenet'; got 'large'"),
    ],
)
def test_densenet_refuses_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        models.DenseNet(**options)
