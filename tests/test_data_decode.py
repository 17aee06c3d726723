"""Image files of every kind become the 8 bits that a viewer shows."""

import numpy as np
import PIL.Image
import pytest

from flatjax.data._decode import decode_files, read_image

GREY = np.random.default_rng(0).integers(256, size=(4, 6), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(256, size=(4, 6, 3), dtype=np.uint8)


def saved(folder, image, name="image.png", **options):
    """Writes an image or an array; returns the path."""
    image = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)
    image.save(folder / name, **options)
    return folder / name


def read(path, size=(4, 6), channels=3, resize=False):
    return read_image(path, size, channels, resize)


def smooth(height, width):
    """An image that JPEG hardly changes."""
    y, x = np.mgrid[:height, :width]
    return np.stack([8 * y, 8 * x, 128 + 0 * x], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "ppm"])
def test_colours_are_kept_bit_for_bit(tmp_path, ending):
    found = read(saved(tmp_path, COLOURS, f"image.{ending}"))
    np.testing.assert_array_equal(found, COLOURS)
    assert found.dtype == np.uint8


def test_the_content_decides_and_not_the_name(tmp_path):
    path = saved(tmp_path, COLOURS)
    np.testing.assert_array_equal(read(path.rename(tmp_path / "image.jpg")), COLOURS)


def test_grey_images_get_equal_channels_or_one(tmp_path):
    path = saved(tmp_path, GREY)
    np.testing.assert_array_equal(read(path), np.stack([GREY] * 3, axis=-1))
    np.testing.assert_array_equal(read(path, channels=1), GREY[..., None])


def test_colours_as_grey_are_their_luma(tmp_path):
    found = read(saved(tmp_path, COLOURS), channels=1)[..., 0]
    np.testing.assert_allclose(found, COLOURS @ [0.299, 0.587, 0.114], atol=1)


def test_black_and_white_fills_the_range(tmp_path):
    found = read(saved(tmp_path, GREY > 127), channels=1)[..., 0]
    np.testing.assert_array_equal(found, np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_are_scaled(tmp_path, ending):
    values = np.random.default_rng(2).integers(2**16, size=(4, 6), dtype=np.uint16)
    found = read(saved(tmp_path, values, f"image.{ending}"), channels=1)[..., 0]
    np.testing.assert_array_equal(found, np.rint(values / 65535 * 255))


@pytest.mark.parametrize("largest", [1023, 65535])
def test_grey_maps_of_sixteen_bits_are_scaled(tmp_path, largest):
    values = np.random.default_rng(2).integers(largest, size=(4, 6), dtype=np.uint16)
    content = b"P5 6 4 %d\n" % largest + values.astype(">u2").tobytes()
    (tmp_path / "image.pgm").write_bytes(content)
    found = read(tmp_path / "image.pgm", channels=1)[..., 0]
    np.testing.assert_allclose(found, 255.0 * values / largest, atol=0.51)


def test_a_transparent_value_of_sixteen_bits_shows_white(tmp_path):
    values = np.array([[0, 257], [258, 65535]], np.uint16)
    path = saved(tmp_path, values, transparency=257)
    found = read(path, size=(2, 2), channels=1)[..., 0]
    np.testing.assert_array_equal(found, [[0, 255], [1, 255]])


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_an_orientation_that_means_nothing_turns_nothing(tmp_path, orientation):
    exif = PIL.Image.fromarray(COLOURS).getexif()
    exif[0x0112] = orientation
    path = saved(tmp_path, COLOURS, exif=exif)
    np.testing.assert_array_equal(decode_files(tmp_path, [path.name], None, 3)[0], COLOURS)


def test_palettes_become_colours(tmp_path):
    image = PIL.Image.fromarray(COLOURS).quantize(4)
    expected = np.asarray(image.convert("RGB"))
    assert len(np.unique(expected.reshape(-1, 3), axis=0)) > 1
    for name in ("image.png", "image.gif"):
        np.testing.assert_array_equal(read(saved(tmp_path, image, name)), expected)


def test_what_is_transparent_shows_white(tmp_path):
    alpha = np.where(GREY > 127, 255, 0)
    rgba = np.concatenate([COLOURS, alpha[..., None]], axis=-1).astype(np.uint8)
    found = read(saved(tmp_path, rgba))
    np.testing.assert_array_equal(found, np.where(alpha[..., None] == 255, COLOURS, 255))
    half = np.full((4, 6, 4), [0, 100, 200, 51], np.uint8)  # a fifth
    assert read(saved(tmp_path, half))[0, 0].tolist() == [204, 224, 244]
    palette = PIL.Image.fromarray((GREY % 2).astype(np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    found = read(saved(tmp_path, palette, transparency=0))
    expected = np.where(GREY[..., None] % 2, [40, 50, 60], 255)
    np.testing.assert_array_equal(found, expected)


def test_cmyk_becomes_colours(tmp_path):
    image = PIL.Image.fromarray(smooth(16, 24))
    found = read(saved(tmp_path, image.convert("CMYK"), "image.jpg", quality=100), (16, 24))
    np.testing.assert_allclose(found, smooth(16, 24).astype(int), atol=12)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_images_are_turned_as_exif_says(tmp_path, ending, orientation):
    image = PIL.Image.fromarray(smooth(16, 24))
    exif = image.getexif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if ending == "jpg" else {}
    path = saved(tmp_path, image, f"image.{ending}", exif=exif, **options)
    turned = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 6: lambda a: np.rot90(a, -1)}
    expected = turned.get(orientation, np.rot90 if orientation == 8 else lambda a: a)(
        np.array(image)
    )
    found = decode_files(tmp_path, [path.name], None, 3)[0]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected.astype(int), atol=4)


def test_an_image_is_scaled_to_cover_the_size(tmp_path):
    """Of a wide image the middle is kept; nothing is stretched."""
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 13:27] = 255  # the filter looks over the edges of the middle
    found = read(saved(tmp_path, wide), (5, 5), resize=True)
    np.testing.assert_array_equal(found, np.full((5, 5, 3), 255))
    np.testing.assert_array_equal(read(saved(tmp_path, COLOURS), resize=True), COLOURS)


def test_a_large_jpeg_is_scaled_as_if_decoded_whole(tmp_path):
    image = PIL.Image.fromarray(smooth(31, 31)).resize((400, 300), PIL.Image.Resampling.BICUBIC)
    found = read(saved(tmp_path, image, "image.jpg", quality=95), (15, 20), resize=True)
    expected = np.asarray(image.resize((20, 15), PIL.Image.Resampling.BILINEAR))
    np.testing.assert_allclose(found, expected.astype(int), atol=6)


def test_all_images_that_cannot_be_decoded_are_named(tmp_path):
    names = [saved(tmp_path, smooth(32, 32), f"{n}.jpg", quality=100).name for n in range(4)]
    content = (tmp_path / names[1]).read_bytes()
    (tmp_path / names[1]).write_bytes(content[: len(content) // 2])
    (tmp_path / names[2]).write_bytes(b"")
    expected = r"2 of 4 images are refused: 1\.jpg \(.*(?i:truncated).*\); 2\.jpg \(cannot identify"
    with pytest.raises(ValueError, match=expected):
        decode_files(tmp_path, names, None, 3)


def test_pixels_whose_range_is_unknown_are_refused(tmp_path):
    saved(tmp_path, COLOURS[..., 0].astype(np.float32), "image.tif")
    with pytest.raises(ValueError, match=r"image\.tif \(pixels of 32 bits, mode F"):
        decode_files(tmp_path, ["image.tif"], None, 3)


def test_five_bad_images_are_shown_and_all_are_counted(tmp_path):
    names = [f"{number}.png" for number in range(200)]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    saved(tmp_path, COLOURS, names[0])
    with pytest.raises(ValueError, match=r"199 of 200 .* 1\.png .* 5\.png .*and 194 more"):
        decode_files(tmp_path, names, None, 3)


def test_many_images_keep_their_order(tmp_path):
    names = [
        saved(tmp_path, np.full((2, 2), number, np.uint8), f"{number:03}.png").name
        for number in range(150)
    ]
    found = decode_files(tmp_path, names, None, 1)
    np.testing.assert_array_equal(found[:, 0, 0, 0], np.arange(150))
