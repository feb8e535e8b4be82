"""MDS (mosaicml-streaming) as a peer of `reading`, in an interpreter of its own, for its requirements clash with ours.

    python -m venv mds && mds/bin/pip install torch mosaicml-streaming numcodecs 'numpy<2'
    python benchmarks/reading.py ... --mds-python mds/bin/python

`reading` calls this: it reads a folder of Blosc buffers (buffers.bin, sizes.npy), writes them as an MDS data set of one
compressed view a sample, reads that in its own shuffled order and prints views/s of every round as JSON.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numcodecs import Blosc, blosc
from rounds import measure

BATCH = 256


def import_streaming() -> None:
    """mosaicml-streaming imports torchvision, whose compiled operators may not match the installed torch."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def write(folder: Path) -> Path:
    from streaming import MDSWriter

    sizes, data = np.load(folder / "sizes.npy"), (folder / "buffers.bin").read_bytes()
    with MDSWriter(out=str(folder / "mds"), columns={"view": "bytes", "label": "int"}) as writer:
        for end, size in zip(np.cumsum(sizes).tolist(), sizes.tolist(), strict=True):
            writer.write({"view": data[end - size : end], "label": 0})
    return folder / "mds"


def views(folder: Path) -> Iterator[int]:
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    decode = Blosc().decode
    while True:
        for sample in dataset:
            decode(sample["view"])
            yield 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    blosc.use_threads = False
    import_streaming()
    print(json.dumps(measure(views, write(arguments.folder), arguments.rounds, arguments.seconds)))


if __name__ == "__main__":
    main()
