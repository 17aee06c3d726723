"""Data sets from folders of images: which files belong to which class, and the cache."""

import json
import os

import numpy as np
import PIL.Image
import pytest

from flatjax.data import from_folder, load
from flatjax.data._sources import _digits

RANDOM = np.random.default_rng(0)


def picture(shape=(6, 4, 3)):
    return RANDOM.integers(256, size=shape, dtype=np.uint8)


def write(folder, pictures):
    """Writes arrays as PNG files, by their names."""
    for name, array in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(array).save(folder / name)
    return folder


@pytest.fixture
def pets(tmp_path):
    """Two classes; the names of files are not in the order in which they are written."""
    names = ("train/dog/b.png", "train/dog/a.png", "train/cat/10.png", "train/cat/9/x.png")
    pictures = {name: picture() for name in (*names, "test/dog/1.png")}
    return write(tmp_path / "pets", pictures), pictures


def read(folder, **options):
    return from_folder(folder, cache=False, **options)


def check(split, expected):
    """`expected` holds pairs of image and label, in order."""
    images, labels = zip(*expected, strict=True)
    np.testing.assert_array_equal(split.image, images)
    np.testing.assert_array_equal(split.label, labels)


def test_classes_and_files_are_sorted_by_name(pets):
    folder, pictures = pets
    found = read(folder)
    order = ("train/cat/10.png", "train/cat/9/x.png", "train/dog/a.png", "train/dog/b.png")
    check(found.train, [(pictures[name], int("dog" in name)) for name in order])
    check(found.test, [(pictures["test/dog/1.png"], 1)])
    assert (found.num_classes, found.class_names) == (2, ("cat", "dog"))


def test_what_systems_add_is_left_out(pets):
    folder, _ = pets
    expected = read(folder)
    for name in (
        *("train/._cat", "train/.DS_Store", "train/cat/._10.png", "train/cat/Thumbs.db"),
        *("train/dog/.hidden/x.png", "train/__MACOSX/cat/10.png", ".git/x.png"),
    ):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"no image")
    found = read(folder)
    assert found.class_names == expected.class_names
    np.testing.assert_array_equal(found.train.image, expected.train.image)


def test_files_of_other_kinds_are_counted_in_a_warning(pets):
    folder, _ = pets
    for name in ("cat/a.txt", "cat/b.TXT", "dog/README"):
        (folder / "train" / name).write_text("no image")
    with pytest.warns(UserWarning, match=r"pets: 3 files are no images.*\(2 \*\.txt, 1 \*\.\)"):
        assert len(read(folder).train) == 4


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_other_names_of_the_test_folder(pets, name):
    folder, pictures = pets
    (folder / "test").rename(folder / name)
    check(read(folder).test, [(pictures["test/dog/1.png"], 1)])


def test_links_are_followed(pets, tmp_path):
    folder, _ = pets
    expected = read(folder)
    (folder / "train" / "cat").rename(tmp_path / "elsewhere")
    (folder / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    np.testing.assert_array_equal(read(folder).train.image, expected.train.image)


# A stated split


@pytest.mark.parametrize("part", ["", "train/"])
@pytest.mark.parametrize("test", [2, 0.25])
def test_a_stated_part_of_each_class_is_for_testing(tmp_path, part, test):
    names = [f"{part}{kind}/{number}.png" for kind in "ab" for number in range(4)]
    pictures = {name: picture() for name in names}
    found = read(write(tmp_path, pictures), test=test)
    assert np.bincount(found.test.label).tolist() == [1, 1]
    assert np.bincount(found.train.label).tolist() == [3, 3]
    both = np.concatenate([found.train.image, found.test.image])
    assert sorted(map(bytes, both)) == sorted(map(bytes, pictures.values()))
    again = read(tmp_path, test=test)
    np.testing.assert_array_equal(found.test.image, again.test.image)


def test_train_may_be_the_name_of_a_class(tmp_path):
    pictures = {f"{kind}/{number}.png": picture() for kind in ("bus", "train") for number in "01"}
    assert read(write(tmp_path, pictures), test=2).class_names == ("bus", "train")


# What is refused


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({}, {"test": 0.5}, ValueError, "test must not be given: .*pets/test holds test images"),
        ({"test": None}, {}, ValueError, "test must say how many of the images in .*pets"),
        ({"test/bird/1.png": 1}, {}, ValueError, "test/bird: this class has no training images"),
        ({"train/bird/": 1}, {}, FileNotFoundError, "train/bird: this class has no images"),
        ({"train/3.png": 1}, {}, ValueError, r"train/3\.png: this image has no class"),
        ({"test/dog/1.png": None}, {}, FileNotFoundError, "pets/test: there are no images"),
        ({}, {"channels": 2}, ValueError, "channels must be 1 or 3, got 2"),
        ({}, {"size": 0}, ValueError, "size must be"),
        ({}, {"size": (3, 4, 5)}, TypeError, "size must be"),
    ],
    ids=lambda value: None if isinstance(value, type) else str(value)[:30],
)
def test_other_folders_and_options_are_refused(pets, change, options, error, message):
    folder, _ = pets
    for name, is_new in change.items():
        if not is_new:
            (folder / name).rename(folder.parent / "gone")
        elif name.endswith("/"):
            (folder / name).mkdir()
        else:
            write(folder, {name: picture()})
    with pytest.raises(error, match=message):
        read(folder, **options)


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: there is no such folder"):
        read(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="there are no folders of classes"):
        read(tmp_path, test=1)


def test_images_of_another_size_are_named_and_counted(pets):
    folder, _ = pets
    write(folder, {"train/dog/c.png": picture((5, 4, 3)), "train/dog/d.png": picture((8, 8, 3))})
    expected = (
        r"pets: 2 of 7 images are refused: train/dog/c\.png \(5x4 pixels high and wide, the first "
        r"image has 6x4: pass `size` to scale all images \(folder,size=32:PATH\)\); "
        r"train/dog/d\.png \(8x8"
    )
    with pytest.raises(ValueError, match=expected):
        read(folder)
    assert read(folder, size=(6, 4)).train.image.shape == (6, 6, 4, 3)


# The cache


def cached(folder):
    return from_folder(folder, cache_dir=folder.parent / "cache")


@pytest.fixture
def decoded(monkeypatch):
    """Counts how often images are decoded."""
    from flatjax.data import _decode

    calls, decode_files = [], _decode.decode_files
    count = lambda *arguments: calls.append(1) or decode_files(*arguments)
    monkeypatch.setattr(_decode, "decode_files", count)
    return calls


def test_the_second_time_nothing_is_decoded(pets, decoded):
    folder, _ = pets
    first, second = cached(folder), cached(folder)
    assert len(decoded) == 1
    for split in ("train", "test"):
        for array in ("image", "label"):
            found = (getattr(getattr(one, split), array) for one in (first, second))
            np.testing.assert_array_equal(*found)
    assert second.class_names == ("cat", "dog")


@pytest.mark.parametrize("change", ["new", "gone", "touched", "renamed", "moved to another class"])
def test_a_changed_folder_is_noticed(pets, decoded, change):
    folder, _ = pets
    cached(folder)
    file = folder / "train" / "dog" / "b.png"
    match change:
        case "new":
            write(folder, {"train/cat/1.png": picture()})
        case "gone":
            file.unlink()
        case "touched":  # written anew with as many bytes
            os.utime(file, ns=(0, 1))
        case "renamed":
            file.rename(file.with_name("0.png"))
        case _:
            file.rename(folder / "train" / "cat" / "b.png")
    found = cached(folder)
    assert len(decoded) == 2
    np.testing.assert_array_equal(found.train.image, read(folder).train.image)
    assert len(list((folder.parent / "cache").iterdir())) == 1  # the old one is replaced


def test_other_options_have_files_of_their_own(pets, decoded):
    folder, _ = pets
    cache = folder.parent / "cache"
    for options in ({}, {"channels": 1}, {"size": 3}, {}):
        from_folder(folder, cache_dir=cache, **options)
    assert len(decoded) == len(list(cache.iterdir())) == 3


def test_a_damaged_cache_is_made_again(pets, decoded):
    folder, _ = pets
    good = cached(folder).train.image
    (path,) = (folder.parent / "cache").iterdir()
    content = path.read_bytes()
    place = content.index(good[0].tobytes()) + 5
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    for number, damaged in enumerate((flipped, content[:-100], content[:1000], b"")):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"{path.name} is damaged .* made again"):
            found = cached(folder)
        np.testing.assert_array_equal(found.train.image, good)
        assert len(decoded) == number + 2
        np.testing.assert_array_equal(cached(folder).train.image, good)  # without a warning


def test_a_cache_that_cannot_be_written_costs_a_warning(pets, tmp_path):
    folder, _ = pets
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be written .* FLATJAX_CACHE_DIR"):
        found = from_folder(folder, cache_dir=tmp_path / "file")
    assert len(found.train) == 4


def test_the_cache_is_where_the_environment_says(pets, tmp_path, monkeypatch):
    folder, _ = pets
    monkeypatch.setenv("FLATJAX_CACHE_DIR", str(tmp_path / "here"))
    from_folder(folder)
    assert len(list((tmp_path / "here").iterdir())) == 1
    monkeypatch.delenv("FLATJAX_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    from_folder(folder)
    assert len(list((tmp_path / "cache" / "flatjax").iterdir())) == 1


# By name


def test_a_folder_by_name(pets, tmp_path):
    folder, _ = pets
    found = load(f"folder:{folder}", data_dir=tmp_path / "cache")
    np.testing.assert_array_equal(found.train.image, read(folder).train.image)
    assert found.name == f"folder:{folder}"
    name = f"folder,size=3x5,channels=1:{folder}"
    assert load(name, data_dir=tmp_path / "cache").image_shape == (3, 5, 1)
    (folder / "test").rename(tmp_path / "gone")
    assert len(load(f"folder,test=1:{folder}", data_dir=tmp_path / "cache").test) == 1
    assert len(load(f"folder,test=0.5:{folder}", data_dir=tmp_path / "cache").test) == 2


@pytest.mark.parametrize("option", ["size=a", "size", "colour=1", "test=", "size=3x"])
def test_unknown_options_are_named(tmp_path, option):
    name = f"folder,{option}:{tmp_path}"
    with pytest.raises(ValueError, match=f"options of folder are size, channels.* got '{option}'"):
        load(name)


def test_named_sets_have_class_names(tmp_path):
    assert _digits().class_names == tuple(json.dumps(number) for number in range(10))
