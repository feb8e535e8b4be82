"""docs/format.md is the format: the page's own code reads every cache, in an interpreter without ci2p."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ci2p_cache.cache import open_cache
from ci2p_cache.reader import ViewReader
from tests.conftest import REPOSITORY, encode_folder, run_python, write_image_folder

PAGE = REPOSITORY / "docs" / "format.md"
_LAST_LINES = """
import sys
assert not [name for name in sys.modules if name.partition(".")[0] in ("ci2p_cache", "pipeline", "torch", "zarr")]
found = list(read_split())
numpy.savez(OUT, latents=numpy.stack([latent for *_, latent in found]), labels=[label for _, label, *_ in found])
pathlib.Path(OUT).with_suffix(".txt").write_text("\\n".join(f"{key} {view}" for key, _, view, _ in found))
pathlib.Path(OUT).with_suffix(".keys").write_text("\\n".join(keys))
"""


def code_of(page: Path) -> str:
    return "\n\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))


@pytest.mark.parametrize(
    ("format", "store", "step"),
    [
        ("zarr", "int", 0.05),  # with thousands of escapes
        ("webdataset", "int", 0.05),
        ("zarr", "float16", None),
        ("webdataset", "float16", None),
        ("zarr", "rans", 1.0),
        ("webdataset", "rans", 0.05),
    ],
)
def test_the_page_reads_what_ci2p_reads(tmp_path: Path, format: str, store: str, step: float | None) -> None:
    images = write_image_folder(tmp_path / "images", train=2, val=1)
    (images / "train" / "red" / "bad.png").write_bytes(b"")
    cache = encode_folder(images, tmp_path / "cache", format=format, store=store, step=step, on_error="skip")
    names = f"CACHE, SPLIT, OUT = {str(cache)!r}, 'train', {str(tmp_path / 'found.npz')!r}\n"
    (tmp_path / "reader.py").write_text(names + code_of(PAGE) + _LAST_LINES)
    done = run_python(tmp_path / "reader.py", PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    found: Any = np.load(tmp_path / "found.npz")
    opened = open_cache(cache, "train")
    views = opened.spec.views
    reader = ViewReader(opened.split_dir, opened.manifest)
    expected = reader.read_latents(
        np.repeat(opened.positions, len(views)), np.tile(np.arange(len(views)), opened.num_samples)
    )
    assert np.array_equal(found["latents"], expected)
    assert found["labels"].tolist() == np.repeat(opened.labels, len(views)).tolist()
    keys = opened.read_items().keys
    assert (tmp_path / "found.keys").read_text().splitlines() == list(keys)
    named = [f"{keys[position]} {view}" for position in opened.positions.tolist() for view in views]
    assert (tmp_path / "found.txt").read_text().splitlines() == named


def test_the_page_names_every_field() -> None:
    from ci2p_cache.manifest import Manifest
    from ci2p_cache.marker import Marker, ShardRecord
    from ci2p_cache.shard_table import ROW
    from ci2p_cache.spec import CacheSpec

    text = PAGE.read_text()
    for record in (CacheSpec, Marker, Manifest, ShardRecord):
        for field in record.model_fields:
            assert f"`{field}`" in text, f"{record.__name__}.{field}"
    for field in ROW.fields or ():
        assert f"`{field}`" in text, field
