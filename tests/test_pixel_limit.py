"""`--max-pixels`: a picture that unfolds is refused by name before it is decoded, and no lack of memory ends a run."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ci2p
from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.regular_file import read_regular
from pipeline.encode.fit.images import list_images, read_image
from pipeline.encode.preprocess import BadImage, JpegDecode, load_pixels, preprocessing
from pipeline.running.pixel_limit import MAX_PIXELS
from tests.conftest import call_ci2p, write_image_folder
from tests.test_cli import SMALL, refused
from tests.test_odd_images import encoded, png_header

GIF_OF_35_BYTES = (
    b"GIF89a" + 4 * b"\xff" + b"\x80\0\0" + bytes(6) + b"," + 4 * b"\0" + 4 * b"\xff" + b"\0\x02\x02L\x01\0;"
)
SMALL_SCREEN = b"GIF89a" + 2 * b"\x01\0" + GIF_OF_35_BYTES[10:]  # its frame is larger than its screen
BOMBS = {
    "png": png_header(32_768, 32_768),
    "gif": GIF_OF_35_BYTES,
    "gif frame": SMALL_SCREEN,
    "ppm": b"P6 30000 30000 255\n",
    "bmp": b"BM" + bytes(8) + b"\x36\0\0\0\x28\0\0\0" + 2 * b"\0\xf0\0\0" + b"\x01\0\x18\0" + bytes(24),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of small images, and one of 300 x 200 pixels among those of train. Not to be changed."""
    folder = tmp_path_factory.mktemp("limit") / "images"
    write_image_folder(folder, train=6, val=4)
    Image.fromarray(np.full((200, 300, 3), 90, np.uint8)).save(folder / "train" / "red" / "wide.png")
    return folder


@pytest.mark.parametrize("kind", list(BOMBS))
def test_a_picture_that_unfolds_is_refused_by_its_header(kind: str) -> None:
    assert len(BOMBS[kind]) < 100
    with pytest.raises(BadImage, match=rf"^too large: .* is more than {MAX_PIXELS} pixels \(--max-pixels\)"):
        load_pixels(BOMBS[kind], preprocessing(32))


def test_the_limit_is_on_pixels_of_the_picture_itself() -> None:
    """For a JPEG that is decoded at an eighth of its size, too; one pixel more is too many."""
    jpeg = encoded(Image.fromarray(np.full((600, 800, 3), 90, np.uint8)), "JPEG")
    kinds: tuple[JpegDecode, ...] = ("full", "scaled")
    for jpeg_decode in kinds:
        assert load_pixels(jpeg, preprocessing(32, jpeg_decode=jpeg_decode, max_pixels=480_000)).shape == (3, 32, 32)
        with pytest.raises(BadImage, match=r"^too large: 800 x 600 is more than 479999 pixels"):
            load_pixels(jpeg, preprocessing(32, jpeg_decode=jpeg_decode, max_pixels=479_999))


def test_encode_names_the_image_or_leaves_it_out(folder: Path, tmp_path: Path) -> None:
    encode = ("encode", "--dataset", "folder", "--data-dir", folder, "--out", "cache", *SMALL)
    limit = ("--max-pixels", "50000")
    stopped = refused(call_ci2p(*encode, *limit, cwd=tmp_path), 1)
    assert "red/wide: too large: 300 x 200 is more than 50000 pixels (--max-pixels)" in stopped
    skipped = call_ci2p(*encode, *limit, "--on-error", "skip", cwd=tmp_path)
    assert skipped.returncode == 0 and "train: 18 images" in skipped.stdout and "1 failed" in skipped.stdout
    assert "red/wide" not in list(ci2p.open(tmp_path / "cache").keys)
    assert call_ci2p(*encode, cwd=tmp_path).returncode == 0
    assert "red/wide" in list(ci2p.open(tmp_path / "cache").keys)


def test_every_way_in_has_the_limit(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"wide: too large: 300 x 200 is more than 50000 pixels"):
        ci2p.encode(folder, out=tmp_path / "cache", image_size=32, device="cpu", workers=0, max_pixels=50_000)
    baseline = ("baseline", "--dataset", "folder", "--data-dir", folder, "--image-size", "32", "--device", "cpu")
    few = ("--model", "vit_tiny", "--epochs", "1", "--batch-size", "4", "--workers", "0", "--max-pixels", "50000")
    assert "wide: too large" in refused(call_ci2p(*baseline, *few, cwd=tmp_path), 1)
    images = list_images(str(folder), "--data-dir", max_pixels=50_000)
    wide = folder / "train" / "red" / "wide.png"
    with pytest.raises(BadImage, match="too large"):
        read_image(wide, images.subset([0]).max_pixels)
    assert read_image(wide, images.max_pixels + 10_000).size == (300, 200)
    with pytest.raises(InputError, match="--max-pixels 0"):
        preprocessing(32, max_pixels=0)


# Pixels that need a gigabyte within a memory of 200 MB more than what Python and Pillow have taken by then.
_SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from pipeline.encode.preprocess import BadImage, JpegDecode, load_pixels, preprocessing
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 200 * 2**20,) * 2)
for path in sys.argv[1:]:
    try:
        print(load_pixels(Path(path).read_bytes(), preprocessing(32)).shape)
    except BadImage as error:
        print(error.reason)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by the way of Linux")
def test_too_little_memory_for_an_image_is_that_images_failure(folder: Path, tmp_path: Path) -> None:
    side = 12_000
    big = tmp_path / "big.png"
    big.write_bytes(encoded(Image.new("1", (side, side))))
    assert big.stat().st_size < 100_000 and side * side < MAX_PIXELS
    good = next(folder.glob("train/red/*.png"))
    done = subprocess.run(
        [sys.executable, "-c", _SHORT_OF_MEMORY, good, big, good], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shape = "(3, 32, 32)"
    assert done.stdout.splitlines() == [shape, f"not enough memory to decode {side} x {side} pixels", shape]


def test_only_regular_files_are_read(folder: Path, tmp_path: Path) -> None:
    """What was a file when the folder was listed, too: a pipe would hang the run, a device fill the memory."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "linked.png").symlink_to(next(folder.glob("train/red/*.png")))
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(OSError, match="no regular file"):
            read_regular(tmp_path / name)
        with pytest.raises(BadImage, match="cannot be read: it is no regular file"):
            read_image(tmp_path / name)
        items = [("a", tmp_path / name, "x"), ("b", tmp_path / "linked.png", "y")]
        with pytest.raises(WorkError, match="image a: cannot be read: it is no regular file"):
            ci2p.encode(
                items=items, val_items=items, out=tmp_path / name.split(".")[0], image_size=32, device="cpu", workers=0
            )
    with pytest.raises(OSError, match="directory"):
        read_regular(tmp_path)
    assert read_regular(tmp_path / "linked.png").startswith(b"\x89PNG")
