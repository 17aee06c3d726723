"""Texts as sequences of tokens, from your own files or TensorFlow Datasets."""

from __future__ import annotations

import dataclasses
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flatjax._checks import (
    check_choice,
    check_class_names,
    check_count,
    check_flag,
    check_number,
    described,
)

Unit = Literal["bytes", "characters"]
_UNITS = ("bytes", "characters")
UNKNOWN = "\N{REPLACEMENT CHARACTER}"


@dataclasses.dataclass(frozen=True, eq=False)
class TokenSplit:
    """Sequences of tokens in host memory, to predict each token from those before.

    Attributes:
      tokens: uint8 or int32 of shape (N, T + 1): a model reads the first T tokens, and predicts
        the last T. Sequences that were cut from one text overlap by one token.

    Raises:
      TypeError: `tokens` is not a NumPy array of these dtypes.
      ValueError: it has another shape, or a token is negative.

    Examples:
      >>> import numpy as np
      >>> TokenSplit(np.zeros((3, 9), np.uint8))
      TokenSplit(tokens=uint8(3, 9))

    See Also:
      `from_text` (makes it from a text), `take_batch` (cuts sequences from it).
    """

    tokens: np.ndarray

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, np.ndarray) or self.tokens.dtype not in ("uint8", "int32"):
            raise TypeError(
                f"tokens must be a NumPy array of uint8 or int32, got {described(self.tokens)}"
            )
        if self.tokens.ndim != 2 or self.tokens.shape[1] < 2 or not len(self.tokens):
            raise ValueError(
                f"tokens must have shape (N, T + 1), with N and T >= 1, got {self.tokens.shape}"
            )
        if self.tokens.dtype != np.uint8 and self.tokens.min() < 0:
            raise ValueError(f"tokens must not be negative, got {self.tokens.min()}")

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All arrays, each with one row for an example."""
        return (self.tokens,)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: np.ndarray | slice) -> TokenSplit:
        """Returns the sequences at `index` (positions, a mask or a slice) as a split."""
        return TokenSplit(self.tokens[index])

    def __repr__(self) -> str:
        return f"TokenSplit(tokens={described(self.tokens)})"


@dataclasses.dataclass(frozen=True, eq=False)
class TokenDataset:
    """A text to model: training and test sequences with one vocabulary.

    Attributes:
      name: the name it was loaded by.
      train: the training sequences.
      test: the test sequences.
      num_classes: size of the vocabulary; tokens are below it.
      class_names: the text of each token; None for bytes.

    Raises:
      ValueError: sequences of the two splits differ in length or dtype, a token is not in the
        vocabulary, or there is another number of names than of tokens.
    """

    name: str
    train: TokenSplit
    test: TokenSplit
    num_classes: int
    class_names: tuple[str, ...] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        one, other = (split.tokens for split in (self.train, self.test))
        if (one.shape[1], one.dtype) != (other.shape[1], other.dtype):
            raise ValueError(
                "train and test tokens must have one length and dtype, "
                f"got {described(one)} and {described(other)}"
            )
        # Bytes need not be read to know that they are below 256: they may lie in a large file.
        is_known = one.dtype == np.uint8 and self.num_classes >= 256
        if not is_known and (largest := max(one.max(), other.max())) >= self.num_classes:
            raise ValueError(
                f"tokens must be below num_classes={self.num_classes}, got a token {largest}"
            )
        check_class_names(self.class_names, self.num_classes, "token")


def from_text(
    path: str | os.PathLike[str],
    *,
    files: str | Sequence[str] = "*",
    unit: Unit = "bytes",
    context: int = 128,
    test: float = 0.1,
    mapped: bool = False,
    name: str | None = None,
) -> TokenDataset:
    """Loads text files as sequences of tokens.

    What is for testing does not depend on chance, nor on which other files there are:

    - A folder with the folders `train` and `test` in it: as they are divided there.
    - Another folder: a file is for testing if the CRC-32 sum of its path in the folder, divided by
      2^32, is below `test`.
    - A file: its last part is for testing.

    The files of each split are joined in the order of their paths, with a line break after each,
    and cut into sequences that overlap by one token, so that each token is predicted once. What is
    left at the end is dropped.

    Args:
      path: a file, or a folder, whose folders are searched as well.
      files: of a folder, a pattern of file names (`"*.py"`), or the paths in the folder. A pattern
        leaves out hidden files and what is in hidden folders.
      unit: `"bytes"` makes a vocabulary of 256. `"characters"` (of UTF-8) makes a vocabulary of the
        characters in the training files, in the order of their code points. Its first token
        represents all other characters.
      context: T, the number of tokens from which the last one is predicted.
      test: the fraction for testing, between 0 and 1; of files, or of the one file's tokens.
      mapped: leave the bytes in their file, which may be larger than the memory. The operating
        system reads the sequences that are used (`numpy.memmap`).
      name: the name of the data set.

    Returns:
      The data set; tokens are uint8 if the vocabulary allows it, else int32.

    Raises:
      FileNotFoundError: the path does not exist, or there is no such file in it.
      ValueError: a split has fewer than T + 1 tokens, a file is not UTF-8 where characters are
        wanted, or an option has no such value. Or a folder or characters are to be mapped.

    Examples:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = pathlib.Path(folder, "abc.txt")
      ...     _ = file.write_text("abc" * 100)
      ...     text = from_text(file, unit="characters", context=8)
      >>> text.train, text.test, text.class_names[1:]
      (TokenSplit(tokens=uint8(33, 9)), TokenSplit(tokens=uint8(3, 9)), ('a', 'b', 'c'))

    See Also:
      `load_text` (for a file), `from_tfds_text` (for TensorFlow Datasets), `take_batch` (cuts
      sequences).
    """
    check_choice("unit", unit, _UNITS)
    check_count("context", context)
    check_number("test", test, minimum=0, maximum=1, exclusive_minimum=True, exclusive_maximum=True)
    check_flag("mapped", mapped)
    place = Path(path).expanduser()
    if mapped:
        return _mapped(name or f"text:{path}", place, unit, context, test)
    if place.is_dir():
        texts = [_joined(part, place) for part in _divided(place, files, test)]
    else:
        text = place.read_bytes()
        texts = _cut(text, round(len(text) * (1 - test)), unit)
    return _dataset(name or f"text:{path}", texts, unit, context, place)


def from_tfds_text(
    name: str,
    *,
    unit: Unit = "bytes",
    context: int = 128,
    data_dir: str | os.PathLike[str] | None = None,
) -> TokenDataset:
    """Loads texts from TensorFlow Datasets, such as `wiki40b/en` (feature `text`).

    Its splits `train` and `test` (or `validation`) are kept; texts are joined and cut as in
    `from_text`, whose arguments these are. The set is prepared once under `data_dir` (by default
    the environment variable TFDS_DATA_DIR, else ~/tensorflow_datasets), which needs a network.

    Returns:
      The training and the test tokens.

    Raises:
      ValueError: the set is unknown, has no feature `text`, or has no such splits.

    Examples:
      >>> from flatjax import data
      >>> text = data.from_tfds_text("wiki40b/en", context=256)  # doctest: +SKIP

    See Also:
      `from_text` (for a string), `load_text` (for a file).
    """
    import tensorflow_datasets as tfds

    check_choice("unit", unit, _UNITS)
    check_count("context", context)
    if not re.fullmatch(r"\w+(/[\w.+-]+)?", name):
        # TFDS also understands 'namespace:name', which downloads and runs code: not here.
        raise ValueError(f"name must be the name of a data set of TFDS, got {name!r}")
    try:
        builder: Any = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(f"{name}: unknown to TensorFlow Datasets ({error})") from error
    if "text" not in dict(builder.info.features or {}):
        raise ValueError(f"{name}: expected a feature 'text', got {builder.info.features}")
    builder.download_and_prepare(file_format="array_record")
    second = "test" if "test" in builder.info.splits else "validation"
    if not {"train", second} <= set(builder.info.splits):
        raise ValueError(
            f"{name}: expected splits train and test (or validation), got {[*builder.info.splits]}"
        )
    texts = [
        b"".join(_bytes(example["text"]) + b"\n" for example in builder.as_data_source(split))
        for split in ("train", second)
    ]
    return _dataset(f"tfds_text:{name}", texts, unit, context, name)


def _mapped(name: str, file: Path, unit: Unit, context: int, test: float) -> TokenDataset:
    """Makes views of the sequences in a file; nothing is read."""
    if file.is_dir() or unit != "bytes":
        kind = "a folder" if file.is_dir() else f"unit={unit!r}"
        raise ValueError(
            f"mapped must be False for {kind}: only the bytes of one file can stay where they are, "
            "so join the files of a folder first"
        )
    size = file.stat().st_size
    text = np.memmap(file, np.uint8, mode="r") if size else np.zeros(0, np.uint8)
    at = round(size * (1 - test))
    found = []
    for split, part in (("train", text[:at]), ("test", text[at:])):
        count = _count(len(part), context, f"{file}: {split}")
        rows = np.lib.stride_tricks.sliding_window_view(part, context + 1)[::context]
        found.append(TokenSplit(rows[:count]))
    train, held_out = found
    return TokenDataset(name, train, held_out, 256)


def _bytes(text: Any) -> bytes:
    return text.encode() if isinstance(text, str) else bytes(text)


def _divided(folder: Path, files: str | Sequence[str], test: float) -> list[list[Path]]:
    """The training and the test files of a folder, in the order of their paths."""
    if isinstance(files, str):
        is_hidden = lambda path: any(part[0] == "." for part in path.relative_to(folder).parts)
        found = [path for path in folder.rglob(files) if path.is_file() and not is_hidden(path)]
    else:
        found = [folder / file for file in files]
    if not found:
        raise FileNotFoundError(f"{folder}: there is no file {files}")
    found = sorted(found, key=lambda path: path.relative_to(folder).as_posix())
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        within = lambda part: [f for f in found if f.is_relative_to(folder / part)]
        return [within("train"), within("test")]
    share = lambda path: zlib.crc32(path.relative_to(folder).as_posix().encode()) / 2**32
    return [[f for f in found if share(f) >= test], [f for f in found if share(f) < test]]


def _joined(files: Iterable[Path], folder: Path) -> bytes:
    try:
        return b"".join(file.read_bytes() + b"\n" for file in files)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder}: there is no file {error.filename}") from error


def _cut(text: bytes, at: int, unit: Unit) -> list[bytes]:
    """Two parts; no character of UTF-8 is cut."""
    while unit == "characters" and at < len(text) and text[at] & 0xC0 == 0x80:
        at += 1
    return [text[:at], text[at:]]


def _dataset(
    name: str, texts: Sequence[bytes], unit: Unit, context: int, place: Any
) -> TokenDataset:
    codes, names = [np.frombuffer(text, np.uint8) for text in texts], None
    if unit == "characters":
        points = [_code_points(text, place) for text in texts]
        known = np.unique(points[0])
        names = (UNKNOWN, *map(chr, known.tolist()))
        codes = [_positions(known, part) for part in points]
    num_classes = 256 if names is None else len(names)
    dtype = np.uint8 if num_classes <= 256 else np.int32
    train, test = (
        TokenSplit(_sequences(part.astype(dtype), context, f"{place}: {split}"))
        for split, part in zip(("train", "test"), codes, strict=True)
    )
    return TokenDataset(name, train, test, num_classes, names)


def _code_points(text: bytes, place: Any) -> np.ndarray:
    try:
        return np.frombuffer(text.decode().encode("utf-32-le"), np.uint32)
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: not UTF-8 ({error}): take unit=bytes") from error


def _positions(known: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Returns the place of each code point among the known ones from 1, or 0."""
    places = np.searchsorted(known, points).clip(max=max(len(known) - 1, 0))
    return np.where(known[places] == points, places + 1, 0) if len(known) else 0 * places


def _sequences(codes: np.ndarray, context: int, place: str) -> np.ndarray:
    """(N, T + 1), rows that overlap by one."""
    starts = context * np.arange(_count(len(codes), context, place))
    return codes[starts[:, None] + np.arange(context + 1)]


def _count(num_tokens: int, context: int, place: str) -> int:
    """Returns the number of sequences in a split."""
    count = (num_tokens - 1) // context
    if count < 1:
        raise ValueError(
            f"{place} must have at least context + 1 = {context + 1} tokens, got {num_tokens}"
        )
    return count
