"""Data sets, batches on the device, and augmentation.

`load` reads a data set by its name; `from_folder` and `from_arrays` read your own data.
`to_device`, `epoch_order` and `take_batch` feed a training loop without the host. `eval_batches`
cuts a split into batches of one shape for evaluation. `Stream` is for data that do not fit into
memory. `enlarge` gives small images the shape of CIFAR's. `load_text` and `from_text` read a text
as sequences of tokens, which the functions above accept as well.

TensorFlow Datasets is imported only by data sets that need it.
"""

from flatjax._normalization import Normalization
from flatjax.data._arrays import from_arrays
from flatjax.data._augment import compose, cutout, random_crop, random_flip
from flatjax.data._autoaugment import autoaugment
from flatjax.data._batches import (
    DeviceSplit,
    DeviceTokens,
    epoch_order,
    eval_batches,
    take_batch,
    to_device,
)
from flatjax.data._dataset import Dataset, Split
from flatjax.data._enlarge import enlarge
from flatjax.data._folder import from_folder
from flatjax.data._local import load_text
from flatjax.data._sources import load
from flatjax.data._stream import Stream, StreamReader
from flatjax.data._subsets import choose_classes, label_noise, split_validation, subset
from flatjax.data._tokens import TokenDataset, TokenSplit, from_text, from_tfds_text

__all__ = [
    "Dataset",
    "DeviceSplit",
    "DeviceTokens",
    "Normalization",
    "Split",
    "Stream",
    "StreamReader",
    "TokenDataset",
    "TokenSplit",
    "autoaugment",
    "choose_classes",
    "compose",
    "cutout",
    "enlarge",
    "epoch_order",
    "eval_batches",
    "from_arrays",
    "from_folder",
    "from_text",
    "from_tfds_text",
    "label_noise",
    "load",
    "load_text",
    "random_crop",
    "random_flip",
    "split_validation",
    "subset",
    "take_batch",
    "to_device",
]
