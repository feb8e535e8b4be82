"""Pictures and tars that were good until somebody changed them: each image is encoded, or named with its reason."""

import io
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ci2p_cache.cache import open_cache
from ci2p_cache.verify import verify_split
from tests.conftest import write_image
from tests.storm.kind import Broken, Kind
from tests.storm.victims import run_victim

_FORMATS = ("png", "jpg", "gif", "tif", "webp", "bmp")
_MEMORY = 12 << 30  # of addresses, of which torch alone takes some; a picture that unfolds would want more
_NUMBERS = (b"\xff\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00", b"\x00\x00\x80\x00")


@dataclass(frozen=True)
class _Pictures:
    good: tuple[tuple[str, bytes], ...]
    """Extension and contents."""


def _prepare(home: Path) -> _Pictures:
    good = []
    for seed, extension in enumerate(_FORMATS):
        write_image(home / f"{seed}.png", seed, (64, 48))
        buffer = io.BytesIO()
        mode = "P" if extension == "gif" else "RGB"
        format = {"jpg": "JPEG", "tif": "TIFF"}.get(extension, extension.upper())
        Image.open(home / f"{seed}.png").convert(mode).save(buffer, format)
        good.append((extension, buffer.getvalue()))
    return _Pictures(tuple(good))


def disturbed(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, most of them where headers are; or cut, doubled, or numbers made huge."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 4, 16))):
        place = rng.randrange(min(len(changed), rng.choice((32, 128, 1024, len(changed)))))
        if rng.random() < 0.4:
            number = rng.choice(_NUMBERS)
            changed[place : place + len(number)] = number
        else:
            changed[place] = rng.randrange(256)
    if rng.random() < 0.15:
        del changed[rng.randrange(len(changed)) :]
    elif rng.random() < 0.1:
        begin = rng.randrange(len(changed))
        changed[begin:begin] = changed[begin : begin + 200]
    return bytes(changed)


def _encode_pictures(data_dir: Path, cache: Path, dataset: str) -> None:
    import torch

    from pipeline.encode.run import encode_dataset
    from pipeline.encode.shard_writer import EncodeOptions

    torch.set_num_threads(1)
    options = EncodeOptions(shard_size=16, batch_size=4, workers=0, on_error="skip")
    encode_dataset(dataset, str(data_dir), cache, options, image_size=32, device="cpu", splits=["train"])


def _encode_disturbed(prepared: _Pictures, rng: random.Random, scratch: Path) -> str:
    keys = set()
    for number in range(8):
        extension, data = rng.choice(prepared.good)
        path = scratch / "images" / "train" / "ab"[number % 2] / f"{number}.{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if number < 2 else disturbed(data, rng))
        keys.add(f"{'ab'[number % 2]}/{number}")
    said = run_victim(_encode_pictures, scratch / "images", scratch / "cache", "folder", memory=_MEMORY)
    if said != "done":
        raise Broken(f"not every image was bad, and it ends in {said}")
    return _account(scratch / "cache", keys)


def _account(cache: Path, keys: set[str]) -> str:
    """Every key is stored or among the failures, once."""
    manifest = open_cache(cache, "train").manifest
    stored = list(open_cache(cache, "train").read_keys())
    failed = [failure.key for failure in manifest.failures]
    if sorted([*stored, *failed]) != sorted(keys):
        raise Broken(f"{len(keys)} images, of which {len(stored)} are stored and {len(failed)} listed")
    if problems := verify_split(cache, "train"):
        raise Broken(f"verify: {problems[0]}")
    return "encoded or listed, each"


def _encode_disturbed_tar(prepared: _Pictures, rng: random.Random, scratch: Path) -> str:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(6):
            extension, data = rng.choice(prepared.good)
            for name, content in ((f"{number}.{extension}", data), (f"{number}.cls", str(number % 2).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    headers = bytearray(buffer.getvalue())
    for _ in range(rng.choice((1, 2, 4))):
        begin = 512 * rng.randrange(len(headers) // 512)
        headers[begin + rng.randrange(512)] = rng.choice((0, 0x20, 0x30, 0x37, 0x80, 0xFF, rng.randrange(256)))
    if rng.random() < 0.3:
        del headers[rng.randrange(len(headers)) :]
    folder = scratch / "images" / "train"
    folder.mkdir(parents=True)
    (folder / "000000.tar").write_bytes(headers)
    said = run_victim(_encode_pictures, scratch / "images", scratch / "cache", "webdataset", memory=_MEMORY)
    if said != "done":
        return "refused by name"
    opened = open_cache(scratch / "cache", "train")
    manifest = opened.manifest
    if manifest.num_images + manifest.num_failed != manifest.num_items:
        raise Broken("images went missing")
    if problems := verify_split(scratch / "cache", "train"):
        raise Broken(f"verify: {problems[0]}")
    return "encoded or listed, each"


KINDS = (
    Kind(
        "pictures",
        "six of eight pictures (PNG, JPEG, GIF, TIFF, WebP, BMP) with bytes changed, numbers made huge, cut; "
        "`encode --on-error skip` with 12 GiB of addresses",
        "C5: each is stored, or listed with its reason; no traceback, no crash, nothing hangs",
        _prepare,
        _encode_disturbed,
    ),
    Kind(
        "tars",
        "bytes changed in a tar of pictures, headers and all, or the tar cut; `encode --on-error skip`",
        "the tar is refused in a line, or each of its images is stored or listed",
        _prepare,
        _encode_disturbed_tar,
    ),
)
