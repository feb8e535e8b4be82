"""Several processes that write one cache at once: all go on, and it is the cache that one of them would have made."""

import shutil
from pathlib import Path

from ci2p_cache.convert import convert_split
from ci2p_cache.verify import verify_split
from tests.conftest import encode_folder, files_of, run_python

# Processes forked from one that has imported everything: begun together, they meet at every file.
_WRITERS = """
import os, random, sys, time, traceback
from pathlib import Path
from ci2p_cache.convert import convert_split
from tests.conftest import encode_folder
import pipeline.encode.run, pipeline.encode.shard_writer
what, source, target, seed, settings = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
random.seed(seed)
begin, delays = time.time() + 0.1, [0.0, 0.0, 0.3 * random.random()]
processes = []
for delay in delays:
    process = os.fork()
    if process == 0:
        time.sleep(max(0.0, begin - time.time()) + delay)
        try:
            if what == "encode":
                encode_folder(source, target, shard_size=2, format=settings, on_error="skip")
            else:
                for split in ("train", "val"):
                    convert_split(source, target, split, settings)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    processes.append(process)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes))
"""


def write_by_three(what: str, source: Path, target: Path, seed: int, settings: str) -> None:
    done = run_python("-c", _WRITERS, what, source, target, str(seed), settings)
    assert done.returncode == 0, done.stderr[-3000:]
    for split in ("train", "val"):
        assert verify_split(target, split) == []  # names files aside that were left, too


def test_three_encoders_then_three_converters_make_one_cache(image_folder: Path, tmp_path: Path) -> None:
    alone = encode_folder(image_folder, tmp_path / "alone", shard_size=2)
    write_by_three("encode", image_folder, tmp_path / "cache", 1, "zarr")
    assert files_of(tmp_path / "cache") == files_of(alone)
    for split in ("train", "val"):
        convert_split(alone, tmp_path / "expected", split, "webdataset")
    write_by_three("convert", tmp_path / "cache", tmp_path / "tars", 3, "webdataset")
    assert files_of(tmp_path / "tars") == files_of(tmp_path / "expected")


def test_three_encoders_mend_one_cache(image_folder: Path, tmp_path: Path) -> None:
    """Shards that are there are written anew: under the eyes of those that read them, to keep what they hold."""
    images = shutil.copytree(image_folder, tmp_path / "images")
    bad = {path: path.read_bytes() for path in sorted(images.rglob("*.png"))[::4]}
    for path in bad:
        path.write_bytes(b"no image")
    encode_folder(images, tmp_path / "cache", shard_size=2, format="webdataset", on_error="skip")
    for path, data in bad.items():
        path.write_bytes(data)
    write_by_three("encode", images, tmp_path / "cache", 2, "webdataset")
    whole = encode_folder(images, tmp_path / "whole", shard_size=2, format="webdataset")
    tars = [name for name in files_of(whole) if name.endswith(".tar")]
    assert len(tars) > 15
    for name in tars:
        assert (tmp_path / "cache" / name).read_bytes() == (whole / name).read_bytes(), name
