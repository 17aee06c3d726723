"""Tiny ImageNet: a small set in the official layout, as a zip file and as a folder."""

import io
import zipfile

import numpy as np
import PIL.Image
import pytest

from flatjax.data import _tiny_imagenet, load
from flatjax.data._tiny_imagenet import TinyImageNet

WNIDS = ("n02124075", "n04067472", "n01443537")  # in the official order, which is not sorted
GREY = "train/n04067472/images/n04067472_1.JPEG"
ANNOTATIONS = "val/val_annotations.txt"


def jpeg(seed, *, size=(64, 64), mode="RGB"):
    values = np.random.default_rng(seed).integers(256, size=(8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(values).resize(size).convert(mode).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def files():
    """Contents by file name: three classes with 3 training images, 5 for validation."""
    files = {"wnids.txt": "\n".join(WNIDS).encode(), "words.txt": b"n02124075\tEgyptian cat\n"}
    for label, wnid in enumerate(WNIDS):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"boxes\n"
        for index in range(3):
            name = f"train/{wnid}/images/{wnid}_{index}.JPEG"
            files[name] = jpeg([label, index], mode="L" if name == GREY else "RGB")
    for index in range(5):
        files[f"val/images/val_{index}.JPEG"] = jpeg([9, index])
    lines = [f"val_{index}.JPEG\t{WNIDS[index % 3]}\t0\t32\t44\t62\n" for index in (3, 0, 1, 4, 2)]
    files[ANNOTATIONS] = "".join(lines).encode()
    files["test/images/test_0.JPEG"] = b"has no label, and is not read"
    return files


def write(path, files, *, packed, prefix="tiny-imagenet-200/"):
    """Writes a zip file or a folder."""
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in reversed(files.items()):
                archive.writestr(prefix + name, content)
    else:
        for name, content in files.items():
            (path / prefix / name).parent.mkdir(parents=True, exist_ok=True)
            (path / prefix / name).write_bytes(content)
    return path


def files_under(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def decoded(content):
    return np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB"))


def assert_holds(dataset, files):
    train = [
        (files[f"train/{wnid}/images/{wnid}_{index}.JPEG"], label)
        for label, wnid in enumerate(WNIDS)
        for index in range(3)
    ]
    test = [(files[f"val/images/val_{index}.JPEG"], index % 3) for index in (3, 0, 1, 4, 2)]
    assert dataset.num_classes == 3
    for split, examples in ((dataset.train, train), (dataset.test, test)):
        np.testing.assert_array_equal(split.image, [decoded(content) for content, _ in examples])
        assert split.label.tolist() == [label for _, label in examples]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("prefix", ["tiny-imagenet-200/", ""])
def test_images_are_those_of_pillow_in_the_order_of_the_lists(
    monkeypatch, tmp_path, files, packed, prefix
):
    source = write(tmp_path / "source", files, packed=packed, prefix=prefix)
    monkeypatch.setenv("FLATJAX_TINY_IMAGENET", str(source))
    assert_holds(load("tiny_imagenet", data_dir=tmp_path / "data"), files)
    monkeypatch.delenv("FLATJAX_TINY_IMAGENET")  # it is prepared once
    dataset = load("tiny_imagenet", data_dir=tmp_path / "data")
    assert_holds(dataset, files)
    grey = dataset.train.image[4]
    assert np.ptp(grey) > 50
    np.testing.assert_array_equal(grey, grey[..., :1].repeat(3, axis=-1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "source"]


def test_an_explicit_source_wins_and_classes_are_named(monkeypatch, tmp_path, files):
    monkeypatch.setenv("FLATJAX_TINY_IMAGENET", "nowhere")
    source = write(tmp_path / "tiny.zip", files, packed=True)
    TinyImageNet(data_dir=tmp_path / "data", source=source).download_and_prepare(
        file_format="array_record"
    )
    assert TinyImageNet(data_dir=tmp_path / "data").info.features["label"].names == list(WNIDS)


# What may be wrong with the files: changes of their contents, and the error


def with_line(content, line):
    return content + line.encode() + b"\n"


DAMAGES = {
    "no classes": ("wnids.txt", lambda c: None, FileNotFoundError, "there is no such file"),
    "empty classes": ("wnids.txt", lambda c: b"\n", ValueError, "WordNet id .*got 0 lines"),
    "a class twice": ("wnids.txt", lambda c: c + b"\n" + c, ValueError, "got 6 lines, 3 of them"),
    "a class that is a path": ("wnids.txt", lambda c: b"../n1", ValueError, r"got '\.\./n1'"),
    "bytes": ("wnids.txt", lambda c: b"\xff\xfe", ValueError, "not a text"),
    "no annotations": (ANNOTATIONS, lambda c: None, FileNotFoundError, "there is no such file"),
    "half an annotation": (ANNOTATIONS, lambda c: c + b"val_5.JPEG", ValueError, "'val_5.JPEG'"),
    "an annotation twice": (
        ANNOTATIONS,
        lambda c: with_line(c, f"val_0.JPEG\t{WNIDS[0]}"),
        ValueError,
        "expected a new file name .* got 'val_0.JPEG",
    ),
    "an unknown class": (
        ANNOTATIONS,
        lambda c: c.replace(WNIDS[2].encode(), b"n00000000"),
        ValueError,
        "val_2.JPEG is of the class n00000000, not in wnids.txt",
    ),
    "a corrupt image": (
        "val/images/val_2.JPEG",
        lambda c: c[: len(c) // 2],
        ValueError,
        "not a JPEG image, or damaged",
    ),
    "no image": ("val/images/val_2.JPEG", lambda c: b"<html>", ValueError, "not a JPEG image"),
    "another size": (
        "train/n01443537/images/n01443537_2.JPEG",
        lambda c: jpeg(0, size=(64, 48)),
        ValueError,
        "expected 64x64 pixels, got 64x48",
    ),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_file_is_named_and_leaves_nothing_behind(
    monkeypatch, tmp_path, files, packed, damage
):
    name, change, error, message = DAMAGES[damage]
    good = files.pop(name)
    if (content := change(good)) is not None:
        files[name] = content
    source = write(tmp_path / "source", files, packed=packed)
    monkeypatch.setenv("FLATJAX_TINY_IMAGENET", str(source))
    with pytest.raises(error, match=f"source: {name}: .*{message}.*set FLATJAX_TINY_IMAGENET"):
        load("tiny_imagenet", data_dir=tmp_path / "data")
    assert files_under(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("missing", "error", "message"),
    [
        ("train/n04067472/images/", FileNotFoundError, "train/n04067472/images: .*no images"),
        ("val/images/val_1.JPEG", FileNotFoundError, "val_1.JPEG: there is no such file"),
    ],
)
def test_missing_images_are_noticed(monkeypatch, tmp_path, files, missing, error, message):
    kept = {name: content for name, content in files.items() if not name.startswith(missing)}
    source = write(tmp_path / "source", kept, packed=True)
    monkeypatch.setenv("FLATJAX_TINY_IMAGENET", str(source))
    with pytest.raises(error, match=message):
        load("tiny_imagenet", data_dir=tmp_path / "data")


def test_an_image_without_annotation_is_noticed(monkeypatch, tmp_path, files):
    files["val/images/val_5.JPEG"] = files["val/images/val_0.JPEG"]
    monkeypatch.setenv(
        "FLATJAX_TINY_IMAGENET", str(write(tmp_path / "source", files, packed=False))
    )
    with pytest.raises(ValueError, match=r"val_5.JPEG: has no annotation in val/val_annotations"):
        load("tiny_imagenet", data_dir=tmp_path / "data")


# What may be wrong with the zip file


def test_a_truncated_zip_file_is_noticed(monkeypatch, tmp_path, files):
    source = write(tmp_path / "tiny.zip", files, packed=True)
    source.write_bytes(source.read_bytes()[:-1000])
    monkeypatch.setenv("FLATJAX_TINY_IMAGENET", str(source))
    with pytest.raises(ValueError, match=r"tiny.zip: not a zip file, or truncated"):
        load("tiny_imagenet", data_dir=tmp_path / "data")
    assert files_under(tmp_path / "data") == []


def test_a_changed_byte_in_the_zip_file_is_noticed(monkeypatch, tmp_path, files):
    source = write(tmp_path / "tiny.zip", files, packed=True)
    content, image = source.read_bytes(), files["val/images/val_4.JPEG"]
    position = content.index(image) + len(image) - 20
    source.write_bytes(content[:position] + b"~" + content[position + 1 :])
    monkeypatch.setenv("FLATJAX_TINY_IMAGENET", str(source))
    with pytest.raises(ValueError, match=r"val/images/val_4.JPEG: damaged \(Bad CRC-32"):
        load("tiny_imagenet", data_dir=tmp_path / "data")
    assert files_under(tmp_path / "data") == []


def test_a_file_that_would_fill_memory_is_refused(monkeypatch, tmp_path, files):
    source = write(tmp_path / "tiny.zip", files, packed=True)
    monkeypatch.setenv("FLATJAX_TINY_IMAGENET", str(source))
    monkeypatch.setattr(_tiny_imagenet, "_LARGEST_FILE", 100)
    with pytest.raises(ValueError, match=rf"{ANNOTATIONS}: too large: \d+ bytes when unpacked"):
        load("tiny_imagenet", data_dir=tmp_path / "data")


def test_the_missing_source_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("FLATJAX_TINY_IMAGENET", str(tmp_path / "nowhere.zip"))
    with pytest.raises(FileNotFoundError, match=r"nowhere.zip: .*tiny-imagenet-200\.zip.*set"):
        load("tiny_imagenet", data_dir=tmp_path / "data")


def test_it_is_not_downloaded(monkeypatch, tmp_path):
    monkeypatch.delenv("FLATJAX_TINY_IMAGENET", raising=False)
    with pytest.raises(FileNotFoundError, match=r"no source is named.*set FLATJAX_TINY_IMAGENET"):
        load("tiny_imagenet", data_dir=tmp_path / "data")
    assert files_under(tmp_path / "data") == []


@pytest.mark.parametrize("packed", [True, False])
def test_files_of_macos_are_not_read(monkeypatch, tmp_path, files, packed):
    more = {f"train/{WNIDS[0]}/images/._{WNIDS[0]}_0.JPEG": b"fork", "val/images/.DS_Store": b"x"}
    source = write(tmp_path / "source", files | more, packed=packed)
    monkeypatch.setenv("FLATJAX_TINY_IMAGENET", str(source))
    assert_holds(load("tiny_imagenet", data_dir=tmp_path / "data"), files)


def test_other_files_among_the_images_are_named(monkeypatch, tmp_path, files):
    files[f"train/{WNIDS[1]}/images/{WNIDS[1]}_1.JPEE"] = files.pop(GREY)
    monkeypatch.setenv("FLATJAX_TINY_IMAGENET", str(write(tmp_path / "s.zip", files, packed=True)))
    with pytest.raises(ValueError, match=r"n04067472_1\.JPEE: expected images"):
        load("tiny_imagenet", data_dir=tmp_path / "data")


def test_the_official_set_has_its_number_of_images(monkeypatch, tmp_path, files):
    monkeypatch.setenv("FLATJAX_TINY_IMAGENET", str(write(tmp_path / "s.zip", files, packed=True)))
    monkeypatch.setattr(_tiny_imagenet, "_OFFICIAL_CLASSES", 3)
    monkeypatch.setattr(_tiny_imagenet, "_OFFICIAL_TRAIN", 4)
    with pytest.raises(ValueError, match=r"train/n02124075/images: expected 4 images, got 3"):
        load("tiny_imagenet", data_dir=tmp_path / "data")
    monkeypatch.setattr(_tiny_imagenet, "_OFFICIAL_TRAIN", 3)
    with pytest.raises(ValueError, match=r"val/images: expected 10000 images, got 5"):
        load("tiny_imagenet", data_dir=tmp_path / "data")


def test_another_source_is_not_ignored_once_prepared(monkeypatch, tmp_path, files):
    source = write(tmp_path / "s.zip", files, packed=True)
    load_from = lambda place: (
        monkeypatch.setenv("FLATJAX_TINY_IMAGENET", str(place)),
        load("tiny_imagenet", data_dir=tmp_path / "data"),
    )[1]
    assert_holds(load_from(source), files)
    same = write(tmp_path / "unpacked", files, packed=False)
    assert_holds(load_from(same), files)
    part = {name: content for name, content in files.items() if not name.endswith("val_4.JPEG")}
    for other in (write(tmp_path / "t.zip", part, packed=True), tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=rf"prepared from {source}, and {other}, which is"):
            load_from(other)
    source.unlink()
    assert_holds(load_from(source), files)
