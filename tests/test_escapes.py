"""escapes: integers that a stored byte does not hold come back on every path, and cost nothing where there are none."""

import hashlib
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import zarr

from ci2p_cache import codecs
from ci2p_cache.cache import open_cache
from ci2p_cache.errors import WorkError
from ci2p_cache.escapes import collect_escapes
from ci2p_cache.items import ItemList, write_item_list
from ci2p_cache.loader import BatchLoader
from ci2p_cache.manifest import dump_manifest, parse_manifest
from ci2p_cache.marker import NO_LABEL, Failure, read_marker, write_marker
from ci2p_cache.packed_strings import PackedStrings
from ci2p_cache.reader import ViewReader
from ci2p_cache.shard import ShardContents, finish_split, write_shard
from ci2p_cache.spec import RECORD_IMAGES, CacheSpec
from ci2p_cache.verify import verify_split
from pipeline.encode import stored_batch
from pipeline.encode.encoder import load_encoder
from pipeline.evaluate.images import LatentRendering
from tests.conftest import call_ci2p, encode_folder, files_of

STEP = 0.01  # makes thousands of what is -40 to 40 in the encoder's own steps
GOLDEN = {
    "zarr": "a870cbad28f5bf00ad9e27e22ab87d73066e05f38fe0c41328793875baebe4f3",
    "webdataset": "8d5b5e47ac7b0a5c4d7ead49e8c642a02304d8ad9f2de3954f2fff32c478da96",
}


@pytest.fixture(scope="module", params=["int", "rans"])
def escaped(
    request: pytest.FixtureRequest, cache_format: str, image_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A cache in each format and store of integers, at a step for which bytes are too small. Not to be changed."""
    path = tmp_path_factory.mktemp("escaped") / "cache"
    return encode_folder(image_folder, path, format=cache_format, store=request.param, step=STEP)


@pytest.fixture(scope="module")
def exact(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, np.ndarray]:
    """Position -> round(y / step) * step of the training images, [V, C, H, W], by numpy alone from what y was."""
    latents: dict[int, np.ndarray] = {}
    zigzag = stored_batch.zigzag

    def watch(latents_FBCHW: torch.Tensor, step: float) -> torch.Tensor:
        seen.extend(latents_FBCHW.transpose(0, 1).numpy().copy())
        return zigzag(latents_FBCHW, step)

    seen: list[np.ndarray] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_batch, "zigzag", watch)
        encode_folder(image_folder, tmp_path_factory.mktemp("exact") / "cache", step=STEP, splits=["train"])
    for position, latents_VCHW in enumerate(seen):
        latents[position] = np.rint(latents_VCHW / np.float32(STEP)) * np.float32(STEP)
    assert len(latents) == 21 and max(np.abs(values).max() for values in latents.values()) > 20
    return latents


@pytest.mark.parametrize(("resident", "workers"), [("cpu", 1), ("off", 1), ("off", 3)])
def test_batches_are_the_latents_to_the_last_bit(
    escaped: Path, exact: dict[int, np.ndarray], resident: str, workers: int
) -> None:
    split = open_cache(escaped, "train")
    assert split.manifest.num_escapes > 1000
    for view in range(2):
        loader = BatchLoader(
            split,
            batch_size=4,
            shuffle=False,
            view=view,
            resident=resident,
            workers=workers,  # type: ignore[arg-type]
        )
        for batch in loader.epoch(0):
            for position, latents in zip(batch.positions.tolist(), batch.latents.numpy(), strict=True):
                assert np.array_equal(latents, exact[position][view])


def test_whoever_else_reads_gets_them_too(escaped: Path, exact: dict[int, np.ndarray]) -> None:
    split = open_cache(escaped, "train")
    reader = ViewReader(split.split_dir, split.manifest)
    positions, views = np.array([20, 3, 3, 11]), np.array([1, 0, 1, 0])
    expected = np.stack([exact[position][view] for position, view in zip(positions, views, strict=True)])
    assert np.array_equal(reader.read_latents(positions, views), expected)
    # ... and by the marker alone, as its documentation says.
    marker = read_marker(escaped / "train", 1)
    assert marker is not None and marker.escapes
    stored = reader.read(np.array([4, 5, 6, 7]), np.zeros(4, np.int64))
    latents = codecs.unzigzag(stored.view(np.uint8)).astype(np.float32)
    for place, view, index, integer in marker.escapes:
        if view == 0:
            assert stored[place].flat[index] == codecs.ESCAPE and abs(integer) > codecs.INT_LIMIT
            latents[place].flat[index] = integer
    assert np.array_equal(latents * np.float32(STEP), np.stack([exact[position][0] for position in (4, 5, 6, 7)]))
    assert marker.value_range == (
        min(exact[position].min() for position in (4, 5, 6, 7)),
        max(exact[position].max() for position in (4, 5, 6, 7)),
    )


def test_a_remote_cache_gives_them_too(escaped: Path, exact: dict[int, np.ndarray]) -> None:
    memory = fsspec.filesystem("memory")
    for name, data in files_of(escaped).items():
        memory.pipe_file(f"/escaped/{name}", data)
    for batch in BatchLoader(open_cache("memory://escaped", "train"), batch_size=4, shuffle=False).epoch(0):
        for position, latents in zip(batch.positions.tolist(), batch.latents.numpy(), strict=True):
            assert np.array_equal(latents, exact[position][0])


def test_raw_images_are_rounded_as_the_cache_is(escaped: Path) -> None:
    spec = open_cache(escaped, "val").spec
    encoder = load_encoder("bundled", "cpu")
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inputs = LatentRendering(spec, encoder).inputs(pixels, ("plain",))
    expected = np.rint(encoder.views(pixels, ("plain",)).numpy() / np.float32(STEP)) * np.float32(STEP)
    assert np.array_equal(inputs.numpy(), expected) and inputs.abs().max() > 127 * STEP


def test_inspect_counts_them_and_the_metadata_say_what_they_are(escaped: Path, cache_format: str) -> None:
    split = open_cache(escaped, "train")
    seen = call_ci2p("inspect", escaped, cwd=escaped)
    assert f"{split.manifest.num_escapes} integers beyond +-127, kept in the markers" in seen.stdout
    assert verify_split(escaped, "train") == []
    if cache_format == "zarr":
        meaning = str(zarr.open_group(escaped / "train" / "latents.zarr", mode="r").attrs["meaning"])
        assert "255" in meaning and "../shards/NNNNNN.json" in meaning


def test_c6_changed_escapes_are_found(image_folder: Path, tmp_path: Path) -> None:
    path = encode_folder(image_folder, tmp_path / "cache", step=STEP, splits=["val"])
    marker = read_marker(path / "val", 0)
    assert marker is not None and marker.escapes
    assert verify_split(path, "val") == []
    (place, view, index, integer), *rest = marker.escapes
    for changed in (rest, [(place, view, index, integer + 1), *rest], [(place, view, 10**6, integer), *rest], None):
        write_marker(path / "val", marker.model_copy(update={"escapes": changed}))
        (problem,) = verify_split(path, "val")
        assert problem.startswith("val/shards/000000.json: ")
        with pytest.raises(WorkError, match=r"shards/000000\.json has changed since it was written; run `ci2p verify`"):
            BatchLoader(open_cache(path, "val"), batch_size=4)


def test_any_selection_of_views_finds_its_own() -> None:
    rng = np.random.default_rng(0)
    integers_NVCHW = (rng.standard_t(1, (9, 3, 4, 2, 2)) * 40).round().astype(np.int32)
    integers_NVCHW[[2, 5]] = 0
    shards = [
        (begin, [(*map(int, at), int(part[tuple(at)])) for at in np.argwhere(abs(part) > 127)])
        for begin, part in zip((0, 3, 6), integers_NVCHW.reshape(3, 3, 3, 16), strict=True)
    ]
    escapes = collect_escapes(shards, 3, 16)
    assert len(escapes.rows) == (np.abs(integers_NVCHW) > 127).sum() > 20
    for size in (0, 1, 5, 40):
        rows = rng.integers(0, 27, size)
        integers = integers_NVCHW.reshape(27, 4, 2, 2)[rows]
        latents = codecs.dequantise(codecs.zigzag(integers), "int", 0.5, escapes.among(rows))
        assert np.array_equal(latents, integers * np.float32(0.5))


def is_zarrs(name: str) -> bool:
    """Whether a file is as zarr-python writes it today."""
    return name.endswith("zarr.json") or "/labels/" in name or "/keys/" in name


@pytest.mark.parametrize("format", ["zarr", "webdataset"])
def test_a_cache_without_escapes_is_what_it_was(tmp_path: Path, format: str) -> None:
    """Golden hashes of format version 2."""
    spec = CacheSpec.model_validate(
        {
            "dataset": "folder", "split": "train", "items_sha256": "0" * 64, "image_size": 32, "short_edge": 36,
            "resize_mode": "crop", "encoder": "bmshj2018_factorized", "weights_sha256": "1" * 64,
            "views": ("plain", "mirror"), "store": "int", "step": 1.0, "shard_size": 3, "seed": 0, "format": format,
            "record_images": RECORD_IMAGES[format],
        }
    )  # fmt: skip
    failure = Failure(key="b/1", reason="empty file")
    rows = [(b"AAAAA", b"mirror"), None, (b"AAAAAAA", b"mirror")]
    shards = [
        ShardContents(["a/0", "b/1", "a/2"], [0, NO_LABEL, 0], rows, [failure], (-3.0, 4.5), {"device": "cpu"}),
        ShardContents(["b/3"], [1], [(b"BBBBB", b"mirror")], [], (-3.0, 5.5), {"device": "cpu"}),
    ]
    split_dir = tmp_path / "train"
    keys = PackedStrings(["a/0", "b/1", "a/2", "b/3"])
    write_item_list(split_dir, ItemList(("a", "b"), keys, np.array([0, 1, 0, 1], np.int32)))
    for shard, contents in enumerate(shards):
        write_shard(split_dir, spec, shard, contents)
    finish_split(tmp_path, spec, ())
    digest = hashlib.sha256()
    for name, data in files_of(split_dir).items():
        if name == "manifest.json":
            manifest = parse_manifest(data, split_dir)
            files = {file: seal for file, seal in (manifest.files or {}).items() if not is_zarrs(file)}
            data = dump_manifest(manifest.model_copy(update={"files": files}))
        if not is_zarrs(name):
            digest.update(name.encode() + b"\0" + data + b"\0")
    assert digest.hexdigest() == GOLDEN[format]
    if format == "zarr":
        meaning = zarr.open_group(split_dir / "latents.zarr", mode="r").attrs["meaning"]
        assert meaning == "latent = step * ((v >> 1) ^ -(v & 1)), v a stored value as a signed integer (zig-zag)"
