"""Pictures of a report for the documentation, in a wide window and on a phone (needs Chromium and Pillow):

python docs/screenshots.py results/report/report.html demo     # docs/images/demo-wide.png, docs/images/demo-phone.png
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

IMAGES = Path(__file__).parent / "images"
LARGEST = 200_000  # bytes of a picture
WIDE, PHONE = (1280, 1000), (390, 1400)
NARROWEST = 500  # width of a window of Chromium
# A page of its own width inside a window that cannot be as narrow.
FRAME = """<!doctype html><style>body {{ margin: 0 }} iframe {{ border: 0; display: block }}</style>
<iframe src="{page}" width="{width}" height="{height}" scrolling="no"></iframe>
"""


def chromium() -> str:
    """The browser on PATH."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise SystemExit("no Chromium on PATH (Debian: apt-get install chromium)")
    return found


def picture(page: Path, size: tuple[int, int]) -> Image.Image:
    """The top of a page as it appears in a window of this width."""
    width, height = size
    with tempfile.TemporaryDirectory() as folder:
        frame, shot = Path(folder, "frame.html"), Path(folder, "shot.png")
        frame.write_text(FRAME.format(page=page.resolve().as_uri(), width=width, height=height))
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=15000"]
        flags += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # WebGL without a GPU
        window = f"--window-size={max(width, NARROWEST)},{height}"
        command = [chromium(), *flags, window, f"--screenshot={shot}", frame.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        return Image.open(shot).convert("RGB").crop((0, 0, width, height))


def write(image: Image.Image, path: Path) -> None:
    """Write with as many colours as fit."""
    for colors in (256, 128, 64, 32):
        image.quantize(colors, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < LARGEST:
            return
    raise SystemExit(f"{path}: larger than {LARGEST} bytes with {colors} colours")


def main() -> None:
    """Make both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("name", help="of the pictures")
    options = parser.parse_args()
    for kind, size in (("wide", WIDE), ("phone", PHONE)):
        write(picture(options.report, size), IMAGES / f"{options.name}-{kind}.png")


if __name__ == "__main__":
    main()
