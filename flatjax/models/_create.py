"""Makes networks by name, for configurations."""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from flatjax.models._convnet import SmallConvNet
from flatjax.models._densenet import densenet121
from flatjax.models._efficientnet import EFFICIENTNETS
from flatjax.models._mlp import MLP
from flatjax.models._pyramidnet import pyramidnet272
from flatjax.models._resnet import resnet18, resnet50, resnet110
from flatjax.models._transformer import Transformer
from flatjax.models._vit import VisionTransformer

CONSTRUCTORS: dict[str, Callable[..., nn.Module]] = {
    "densenet121": densenet121,
    "mlp": MLP,
    "pyramidnet272": pyramidnet272,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnet110": resnet110,
    "small_convnet": SmallConvNet,
    "transformer": Transformer,
    "vit": VisionTransformer,
    **EFFICIENTNETS,
}
"""The names that `create` knows, with constructors from `num_classes` and their own options."""

# Every constructor takes these, but a caller may not choose them here.
_NOT_OPTIONS = {"num_classes", "parent", "name"}


def create(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Makes the model of a name.

    Args:
      name: a key of `CONSTRUCTORS`, such as `"mlp"` or `"resnet18"`.
      num_classes: number of logits.
      **options: attributes of the model, see its class. Each attribute has a default.

    Returns:
      A linen module without parameters; `init` makes them.

    Raises:
      ValueError: the name is unknown, or the model refuses a value.
      TypeError: the model does not have an option, or a value has the wrong type.

    Examples:
      >>> from flatjax import models
      >>> models.create("mlp", 10, hidden=(64,)).hidden
      (64,)
      >>> models.create("mlp", 10, batch_norm=True)
      Traceback (most recent call last):
        ...
      TypeError: options of 'mlp' are hidden, dtype; got batch_norm.

    See Also:
      `save` (writes a trained model), `CONSTRUCTORS` (the names).
    """
    if name not in CONSTRUCTORS:
        close = difflib.get_close_matches(name, CONSTRUCTORS, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"name must be one of {', '.join(sorted(CONSTRUCTORS))}; got {name!r}.{hint}"
        )
    constructor = CONSTRUCTORS[name]
    known = [key for key in inspect.signature(constructor).parameters if key not in _NOT_OPTIONS]
    unknown = [key for key in options if key not in known]
    if unknown:
        raise TypeError(f"options of {name!r} are {', '.join(known)}; got {', '.join(unknown)}.")
    return constructor(num_classes=num_classes, **options)
