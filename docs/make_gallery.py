"""Makes the small pictures of the gallery from notebooks and figures.

`python docs/make_gallery.py` after a picture has changed.
"""

import base64
import io
import json
import pathlib

from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
GALLERY = ROOT / "docs" / "gallery"
SIZE = (280, 200)  # pixels, at most
COLORS = 64  # few, so that files are small


def sources() -> dict[pathlib.Path, pathlib.Path]:
    """Returns thumbnail -> the executed notebook or the figure that it shows."""
    notebooks = {
        GALLERY / f"notebook_{path.stem}.png": path
        for path in sorted(ROOT.glob("notebooks/*.ipynb"))
    }
    figures = {GALLERY / path.name: path for path in sorted(ROOT.glob("experiments/figures/*.png"))}
    return notebooks | figures


def thumbnail(source: pathlib.Path) -> Image.Image:
    """Makes the small picture of a figure, or of the first picture of a notebook."""
    content = source.read_bytes()
    if source.suffix == ".ipynb":
        outputs = [one for cell in json.loads(content)["cells"] for one in cell.get("outputs", [])]
        first = next(one for one in outputs if "image/png" in one.get("data", {}))
        content = base64.b64decode(first["data"]["image/png"])
    with Image.open(io.BytesIO(content)) as picture:
        small = picture.convert("RGB")
    small.thumbnail(SIZE, Image.Resampling.LANCZOS)
    return small.quantize(COLORS, dither=Image.Dither.NONE)


def main() -> None:
    """Writes all thumbnails."""
    GALLERY.mkdir(exist_ok=True)
    for path, source in sources().items():
        thumbnail(source).save(path, optimize=True)


if __name__ == "__main__":
    main()
