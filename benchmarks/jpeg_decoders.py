"""Other JPEG decoders beside PIL: are the pixels the same to the last bit, and what is gained?

    python benchmarks/jpeg_decoders.py --images DIR [--most 1000] [--rounds 5] [--json FILE]

simplejpeg, torchcodec and torchvision, whichever can be imported here. Their pixels are held against PIL's on up to
--most files of DIR (what is no JPEG is made one, of quality 95), and on JPEGs of other kinds made of a few of these.
Seconds are of one core, per file the fastest of --rounds, PIL and the others taking turns: decoding alone, as far as
an image of PIL's, and the whole way from a file's bytes to the encoder's pixels, whose resizing stays PIL's. Medians
over the files and, of the ratios, quartiles.
"""

import argparse
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from commands import command_line, machine
from PIL import Image

from ci2p_cache.publish import publish
from pipeline.encode.bad_image import BadImage
from pipeline.encode.decode import Decoded, decode
from pipeline.encode.preprocess import load_pixels, preprocessing, render_plain

Decoder = Callable[[bytes], Image.Image]
_TIMED = 150  # files


def with_simplejpeg() -> dict[str, Decoder]:
    import simplejpeg

    def decoder(**settings: bool) -> Decoder:
        return lambda data: Image.fromarray(simplejpeg.decode_jpeg(data, colorspace="RGB", **settings))

    return {
        "simplejpeg": decoder(),
        "simplejpeg, fast DCT": decoder(fastdct=True),
        "simplejpeg, fast upsampling": decoder(fastupsample=True),
    }


def with_torchcodec() -> dict[str, Decoder]:
    from torchcodec.decoders import decode_jpeg

    return {"torchcodec": lambda data: of_tensor(decode_jpeg(data, mode="RGB"))}


def with_torchvision() -> dict[str, Decoder]:
    from torchvision.io import ImageReadMode, decode_jpeg

    return {
        "torchvision": lambda data: of_tensor(
            decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
        )
    }


def of_tensor(pixels_3HW: torch.Tensor) -> Image.Image:
    return Image.fromarray(pixels_3HW.permute(1, 2, 0).contiguous().numpy())


def jpegs(folder: Path, most: int) -> list[bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    random.Random(0).shuffle(paths)
    contents = (path.read_bytes() for path in paths[:most])
    return [data if data[:2] == b"\xff\xd8" else saved(Image.open(BytesIO(data)).convert("RGB")) for data in contents]


def saved(image: Image.Image, **settings: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", **{"quality": 95} | settings)
    return buffer.getvalue()


def kinds(data: bytes) -> Iterator[tuple[str, bytes]]:
    image = Image.open(BytesIO(data)).convert("RGB")
    for name, subsampling in (("4:4:4", 0), ("4:2:2", 1), ("4:2:0", 2)):
        yield name, saved(image, subsampling=subsampling)
    yield "progressive", saved(image, progressive=True)
    yield "optimised, quality 40", saved(image, optimize=True, quality=40)
    yield "grey", saved(image.convert("L"))
    yield "CMYK", saved(image.convert("CMYK"))
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "EXIF, turned", saved(image, exif=exif)
    yield "odd sides", saved(image.crop((0, 0, image.width - 3, image.height - 5)), subsampling=2)
    whole = saved(image)
    yield "cut short", whole[: len(whole) // 2]


def verdict(decoder: Decoder, data: bytes) -> str:
    try:
        theirs = np.asarray(decode(data))
    except BadImage:
        theirs = None
    try:
        ours = np.asarray(decoder(data))
    except (ValueError, RuntimeError, OSError):
        return "both refuse" if theirs is None else "refused"
    if theirs is None:
        return "taken, PIL refuses"
    return "equal" if np.array_equal(ours, theirs) else "other pixels"


def thread_seconds(work: Callable[[], object]) -> float:
    begin = time.thread_time()
    work()
    return time.thread_time() - begin


def timed(decoder: Decoder, files: list[bytes], rounds: int) -> dict[str, tuple[float, float, list[float]]]:
    """Milliseconds by PIL and by the decoder, medians, and the quartiles of the files' ratios."""
    how = preprocessing()

    def whole(data: bytes) -> np.ndarray:
        image = decoder(data)
        return render_plain(Decoded(image, image.size), how)

    ways = {"decoding": (decode, decoder), "whole step": (lambda data: load_pixels(data, how), whole)}
    found = {}
    for name, (theirs, ours) in ways.items():
        times = np.full((len(files), 2), np.inf)
        for row, data in zip(times, files, strict=True):
            for _ in range(rounds):
                for column, work in enumerate((theirs, ours)):
                    row[column] = min(row[column], thread_seconds(lambda work=work, data=data: work(data)))
        quartiles = statistics.quantiles((times[:, 0] / times[:, 1]).tolist(), n=4)
        found[name] = (*(1000 * np.median(times, axis=0)).tolist(), quartiles)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--most", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = jpegs(arguments.images, arguments.most)
    sizes = [Image.open(BytesIO(data)).size for data in files]
    width, height = (statistics.median(side) for side in zip(*sizes, strict=True))
    print(f"{machine()}; {len(files)} files, {width:.0f} x {height:.0f} in the median")
    result: dict[str, Any] = {"command": command_line(), "machine": machine(), "files": len(files), "decoders": {}}
    for offer in (with_simplejpeg, with_torchcodec, with_torchvision):
        try:
            decoders = offer()
            for decoder in decoders.values():
                decoder(files[0])
        except (ImportError, OSError, RuntimeError) as error:
            print(f"{offer.__name__.removeprefix('with_')}: not here ({str(error).splitlines()[0][:100]})")
            continue
        for name, decoder in decoders.items():
            counts = Counter(verdict(decoder, data) for data in files)
            by_kind = {kind: Counter[str]() for kind, _ in kinds(files[0])}
            for data in files[:8]:
                for kind, made in kinds(data):
                    by_kind[kind][verdict(decoder, made)] += 1
            times = timed(decoder, files[:_TIMED], arguments.rounds)
            print(f"{name}: {dict(counts)}; made: " + "; ".join(f"{kind} {dict(c)}" for kind, c in by_kind.items()))
            for way, (theirs, ours, (low, middle, high)) in times.items():
                print(f"  {way:<11} PIL {theirs:.2f} ms, {ours:.2f} ms: {middle:.2f}x ({low:.2f}-{high:.2f})")
            result["decoders"][name] = {"pixels": counts, "kinds": by_kind, "ms_and_quartiles_of_ratio": times}
    if arguments.json:
        publish(arguments.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
