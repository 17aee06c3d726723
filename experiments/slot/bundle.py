"""The bundle of a slot: everything that a machine without a network needs.

bundle.json      the commit, and a digest of each file
tree.tar.gz      the library and the experiments
wheels/          packages that the target lacks
images.tar.xz    images of a data set, train/CLASS/* and test/CLASS/*
earlier/         the records of earlier slots, whose units are not repeated
run.sh           unpacks, installs and runs: bash run.sh OUT [options]
"""

import concurrent.futures
import hashlib
import importlib.metadata
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import numpy as np

from experiments.report import provenance, store

LIMIT = 45 * 2**20  # bytes
# What the command line needs and the target lacks; all of pure Python.
PACKAGES = ("tyro", "docstring_parser", "typeguard")
_ROOT = pathlib.Path(__file__).parents[2]
_TREE = ("flatjax", "experiments", "setup.cfg", "pyproject.toml", "LICENSE")
_RUN = """#!/usr/bin/env bash
# Runs a slot: bash run.sh OUT [options of `python -m experiments.slot run`]
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
mkdir -p "$1"
out="$(cd "$1" && pwd)"
shift
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
tar -xzf "$here/tree.tar.gz" -C "$work"
python="${PYTHON:-python3}"
if compgen -G "$here/wheels/*.whl" >/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/site" \\
    "$here"/wheels/*.whl
fi
export PYTHONPATH="$work/tree:$work/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
cd "$work/tree"
"$python" -m experiments.slot run --bundle "$here" --work "$work" --out "$out" "$@"
"""


def make_bundle(
    out: pathlib.Path,
    images: pathlib.Path,
    *,
    earlier: pathlib.Path | None = None,
    wheels: bool = True,
) -> int:
    """Makes a bundle.

    Args:
      out: its folder, which must not exist.
      images: archive (tar, compressed or not) or folder with train/CLASS/* and test/CLASS/*.
      earlier: folder of the records of earlier slots.
      wheels: whether to download the packages.

    Returns:
      Its size in bytes.

    Raises:
      ValueError: the folder exists, or the bundle is too large.
      RuntimeError: the packages cannot be downloaded.
    """
    if out.exists():
        raise ValueError(f"out ({out}) exists: choose another folder.")
    out.mkdir(parents=True)
    _pack_tree(out / "tree.tar.gz")
    if images.is_dir():
        with tarfile.open(out / "images.tar.xz", "w:xz") as archive:
            for part in ("train", "test"):
                archive.add(images / part, part)
    else:
        shutil.copyfile(images, out / "images.tar.xz")
    (out / "wheels").mkdir()
    if wheels:
        _download(out / "wheels")
    if earlier is not None:
        shutil.copytree(earlier, out / "earlier")
    store.write_text(out / "run.sh", _RUN)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    digests = {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
    store.write_json(out / "bundle.json", {"made_from": provenance.made_by(), "files": digests})
    size = sum(path.stat().st_size for path in files)
    if size > LIMIT:
        raise ValueError(f"the bundle has {size / 2**20:.1f} MiB, at most 45 can be carried.")
    return size


def check_bundle(bundle: pathlib.Path) -> dict[str, str | None]:
    """Checks the files against their digests; returns the origin of the bundle.

    Raises:
      ValueError: a file is missing or damaged.
    """
    about = store.read_json(bundle / "bundle.json", must_be_sealed=True)
    for name, digest in about["files"].items():
        path = bundle / name
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ValueError(f"{path} is missing or damaged: copy the bundle again.")
    return about["made_from"]


def _pack_tree(path):
    """The tracked files, as they are now."""
    command = ["git", "-C", str(_ROOT), "ls-files", "-z", "--", *_TREE]
    names = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\0")
    with tarfile.open(path, "w:gz") as archive:
        for name in filter(None, names):
            if (_ROOT / name).exists():
                archive.add(_ROOT / name, f"tree/{name}")


def _download(folder):
    """The packages in the versions that are installed here."""
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    options = ["--python-version", "3.12", "--dest", str(folder)]
    done = subprocess.run(
        [*command, *options, *wanted], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"pip cannot download {', '.join(wanted)}: {done.stderr.strip()}")


# --- images -------------------------------------------------------------------------------------


def unpack_images(archive: pathlib.Path, path: pathlib.Path) -> None:
    """Decodes an archive of images to the arrays of `--dataset npz:PATH`.

    Images and classes have the order of `flatjax.data.from_folder`: no file is written for each,
    so that it takes seconds where unpacking takes half a minute.

    Args:
      archive: train/CLASS/* and test/CLASS/*.
      path: file to write, with the ending npz.
    """
    with tarfile.open(archive) as opened:
        files = {
            member.name.removeprefix("./"): opened.extractfile(member).read()  # type: ignore[union-attr]
            for member in opened
            if member.isfile()
        }
    names = sorted(files, key=lambda name: name.split("/"))
    classes = sorted({name.split("/")[1] for name in names})
    arrays = {}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for part in ("train", "test"):
            own = [name for name in names if name.startswith(f"{part}/")]
            images = pool.map(_decoded, [files[name] for name in own], chunksize=256)
            arrays[f"x_{part}"] = np.stack(list(images))
            arrays[f"y_{part}"] = np.array([classes.index(name.split("/")[1]) for name in own])
    # Complete before it has its name: several processes of a slot may share it.
    partial = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(partial, **arrays)  # type: ignore[arg-type]
    partial.replace(path)


def _decoded(content: bytes) -> np.ndarray:
    import PIL.Image

    with PIL.Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def write_toy_images(folder: pathlib.Path, number: int = 6) -> None:
    """Writes a few JPEG images of ten classes, for a rehearsal.

    The classes are bright squares at ten places.
    """
    import PIL.Image

    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in range(10):
            place = folder / part / f"class{label}"
            place.mkdir(parents=True)
            for index in range(number):
                image = rng.integers(0, 100, (8, 8, 3), dtype=np.uint8)
                row, column = 2 * (label // 4), 2 * (label % 4)
                image[row : row + 2, column : column + 2] += 150
                PIL.Image.fromarray(image).save(place / f"{index:04d}.jpg", quality=95)
