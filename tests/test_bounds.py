"""What somebody else wrote into a cache is held against itself, and what is wrong is one line with file and field."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from ci2p_cache.bounds import MOST_CLASSES
from ci2p_cache.cache import open_cache
from ci2p_cache.claim import spec_of_settings
from ci2p_cache.errors import Ci2pError, InputError, WorkError
from ci2p_cache.items import read_item_list
from ci2p_cache.manifest import parse_manifest, read_manifest
from ci2p_cache.marker import parse_marker, read_marker
from ci2p_cache.reader import ViewReader
from ci2p_cache.seals import seal_json, seal_of, unseal_json
from ci2p_cache.shard_table import SHARDS
from ci2p_cache.spec import read_spec
from ci2p_cache.stored_labels import LABELS
from ci2p_cache.summary import describe_split, summarise_split
from ci2p_cache.verify import verify_split
from tests.conftest import call_ci2p, encode_folder
from tests.lying_caches import lie
from tests.test_stores import all_views


@pytest.fixture(scope="module")
def escaped(cache_format: str, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache whose markers list escapes: by a fine step many values are beyond a byte. Not to be changed."""
    return encode_folder(image_folder, tmp_path_factory.mktemp("lies") / "cache", format=cache_format, step=0.02)


def body_of(path: Path) -> Any:
    return json.loads(unseal_json(path.read_bytes()) or path.read_bytes())


def sealed(body: Any) -> bytes:
    return seal_json(json.dumps(body, separators=(",", ":")).encode())


def test_a_lie_is_one_line_or_does_no_harm(escaped: Path, tmp_path: Path) -> None:
    """To those who read a spec, a marker, a manifest."""
    split_dir, refused = tmp_path / "train", 0
    (split_dir / "shards").mkdir(parents=True)
    names = ["manifest.json", "spec.json", SHARDS, LABELS, *(f"shards/{shard:06d}.json" for shard in range(6))]
    for seed in range(80):
        for name in names:
            shutil.copyfile(escaped / "train" / name, split_dir / name)
        lie(split_dir, seed)
        reads: list[Callable[[], object]] = [
            lambda: read_manifest(split_dir),
            lambda: read_spec(split_dir / "spec.json"),
            *(lambda shard=shard: read_marker(split_dir, shard) for shard in range(6)),  # type: ignore[misc]
        ]
        for read in reads:
            try:
                read()
            except Ci2pError as error:
                assert str(split_dir) in str(error) and "\n" not in str(error) and len(str(error)) < 500
                refused += 1
    assert refused > 60


def test_lies_end_no_command_otherwise(escaped: Path, tmp_path: Path) -> None:
    for seed in range(1000, 1010):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        shutil.copytree(escaped, tmp_path / "cache")
        lie(tmp_path / "cache" / "train", seed)
        uses: list[Callable[[], object]] = [
            lambda: all_views(open_cache(tmp_path / "cache", "train")),
            lambda: open_cache(tmp_path / "cache", "train").read_contents(),
            lambda: describe_split(summarise_split(tmp_path / "cache", "train")),
            lambda: verify_split(tmp_path / "cache", "train"),
        ]
        for use in uses:
            try:
                use()
            except Ci2pError as error:
                assert "\n" not in str(error)


def changed_manifest(escaped: Path, change: Callable[[Any], object]) -> bytes:
    """As format version 1 has it, and version 2 before it was fixed: with a list of shards and labels."""
    manifest = read_manifest(escaped / "train")
    shards = [record.model_dump() for record in manifest.shards]
    body = body_of(escaped / "train" / "manifest.json") | {"shards": shards, "labels": manifest.labels.whole().tolist()}
    change(body)
    return sealed(body)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m["spec"].update(image_size=0), r"image_size is 0"),
        (lambda m: m["spec"].update(image_size=48), r"image_size is 48"),
        (lambda m: m["spec"].update(image_size=2**70), r"image_size is "),
        (lambda m: m["spec"].update(shard_size=0), r"shard_size is 0: 1 to"),
        (lambda m: m["spec"].update(shard_size=-4), r"shard_size is -4"),
        (lambda m: m["spec"].update(split="../val"), r"split is '../val'"),
        (lambda m: m["spec"].update(split="a\0b"), r"split is 'a\\x00b'"),
        (lambda m: m["spec"].update(step=0.0), r"step is 0.0"),
        (lambda m: m["spec"].update(views=["mirror", "plain"]), r"views is 'mirror,plain'"),
        (lambda m: m["spec"].update(views=["plain"] * 10**4), r"views is "),
        (lambda m: m["spec"].update(seed=2**70), r"seed is "),
        (lambda m: m["shards"][0].update(file="/dev/zero"), r"shards.0.file is '/dev/zero'"),
        (lambda m: m["shards"][0].update(file="a\0b"), r"shards.0.file is 'a\\x00b'"),
        (lambda m: m["shards"][0].update(file="../val/000000.tar"), r"shards.0.file is "),
        (lambda m: m["shards"][1].update(file=m["shards"][0]["file"]), r"shards.1.file is "),
        (lambda m: m["shards"][2].update(bytes=-1), r"shards.2.bytes is -1"),
        (lambda m: m["shards"][2].update(bytes=2**70), r"shards.2.bytes is "),
        (lambda m: m["shards"][2].update(num_samples=3), r"labels of shard 2 are of 4 stored images instead of 3"),
        (lambda m: m["shards"].pop(), r"shards has 5 entries for 21 items"),
        (lambda m: m.update(classes=["c"] * (MOST_CLASSES + 1)), r"classes: List should have at most 131072 items"),
        (lambda m: m.update(classes=["blue"]), r"labels is 2: of 1 class"),
        (lambda m: m["labels"].__setitem__(0, 2**70), r"labels.0"),
        (lambda m: m["labels"].pop(), r"labels has 20 entries for 21 items"),
        (lambda m: m.update(num_items=10**12), r"labels has 21 entries for 1000000000000 items"),
        (lambda m: m.update(num_images=20), r"num_images is 20: the rest of the manifest makes it 21"),
        (lambda m: m.update(value_range=[3, -3]), r"value_range is "),
        (lambda m: m.update(spec_id="0" * 16), r"spec_id is '0000000000000000'"),
        (lambda m: m.update(failures=[{"key": "x", "reason": "y"}]), r"failures has 1 entries for 0 failed items"),
        (lambda m: m["files"].update({"/etc/passwd": ["0" * 64, 1]}), r"files has '/etc/passwd'"),
        (lambda m: m["files"].update({"../x": ["0" * 64, 1]}), r"files has '../x'"),
        (lambda m: m.update(extra="\x1b[31m\n"), r"extra is '\\x1b\[31m\\n'"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused_by_its_field(
    escaped: Path, change: Callable[[Any], object], named: str
) -> None:
    with pytest.raises(
        WorkError, match=rf"^M/manifest.json is damaged \((spec: )?{named}.*\); run the same `ci2p encode` again"
    ):
        parse_manifest(changed_manifest(escaped, change), "M")


def test_a_listed_manifest_is_read(escaped: Path) -> None:
    listed, mapped = parse_manifest(changed_manifest(escaped, len), "M"), read_manifest(escaped / "train")
    assert listed.labels == mapped.labels and list(listed.shards) == list(mapped.shards)


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        (SHARDS, lambda rows: rows["bytes"].__setitem__(2, -1), r"shards.2.bytes is -1"),
        (SHARDS, lambda rows: rows["num_samples"].__setitem__(2, 2**62), r"shards.2.num_samples is "),
        (SHARDS, lambda rows: rows["num_samples"].__setitem__(2, 3), r"num_images is 21: the rest of the manifest"),
        (SHARDS, lambda rows: rows[:-1], r"shards has 5 entries for 21 items"),
        (SHARDS, lambda rows: rows["bytes"], r"shards.npy is damaged: int64 \(6,\)"),
        (LABELS, lambda labels: labels[:-1], r"labels has 20 entries for 21 items"),
        (LABELS, lambda labels: labels.astype(np.int64), r"labels.npy is damaged: int64 \(21,\)"),
        (LABELS, lambda labels: labels.__setitem__(9, 1 - labels[9] % 2), r"labels of shard 2: have changed"),
    ],
)
def test_arrays_beside_a_manifest_that_cannot_be_are_refused(
    escaped: Path, tmp_path: Path, name: str, change: Callable[[Any], Any], named: str
) -> None:
    """By whoever reads them, a seal that holds or not."""
    for each in ("manifest.json", SHARDS, LABELS):
        shutil.copyfile(escaped / "train" / each, tmp_path / each)
    array = np.load(tmp_path / name)
    changed = change(array)
    np.save(tmp_path / name, array if changed is None else changed)
    with pytest.raises(WorkError, match=f"{name} has changed|labels of shard 2: have changed"):
        read_manifest(tmp_path).labels.whole()
    body = body_of(tmp_path / "manifest.json")
    body["files"][name] = seal_of((tmp_path / name).read_bytes())
    (tmp_path / "manifest.json").write_bytes(sealed(body))
    with pytest.raises(WorkError, match=named):
        read_manifest(tmp_path).labels.whole()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.update(shard=3), r"record.file is .*: no name of shard 3"),
        (lambda m: m.update(shard=-1), r"shard is -1"),
        (lambda m: m["record"].update(file="/dev/zero"), r"record.file is '/dev/zero'"),
        (lambda m: m["keys"].pop(), r"labels has 4 entries and keys has 3"),
        (lambda m: m["keys"].__setitem__(0, m["keys"][1]), r"keys has an image twice"),
        (lambda m: m["labels"].__setitem__(0, -1), r"record.num_samples is 4: 3 labels"),
        (lambda m: m["failures"].append({"key": "x", "reason": "y"}), r"failures has other images"),
        (lambda m: m["image_hashes"].__setitem__(0, "xyz"), r"image_hashes has an entry"),
        (lambda m: m["modified_ns"].pop(), r"modified_ns has 3 entries and keys has 4"),
        (lambda m: m["escapes"].__setitem__(0, [0, 0, 2**70, 300]), r"escapes has \(0, 0, \d+, 300\)"),
        (lambda m: m["escapes"].__setitem__(0, [9, 0, 0, 300]), r"escapes has \(9, 0, 0, 300\)"),
        (lambda m: m["escapes"].__setitem__(0, [0, 0, 0, 3]), r"escapes has \(0, 0, 0, 3\)"),
        (lambda m: m["escapes"].pop(), r"record.num_escapes is \d+: escapes has"),
    ],
)
def test_a_marker_that_cannot_be_is_refused_by_its_field(
    escaped: Path, change: Callable[[Any], object], named: str
) -> None:
    body = body_of(escaped / "train" / "shards" / "000001.json")
    change(body)
    with pytest.raises(WorkError, match=rf"^M is damaged \({named}.*\); delete it and run the same command again"):
        parse_marker(sealed(body), "M", 1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m["view_offsets"].__setitem__(0, [0]), r"view_offsets.0 has 1 view and view_bytes.0 2"),
        (lambda m: m["view_offsets"][1].__setitem__(0, 2**70), r"view_offsets.1 has "),
        (lambda m: m["view_offsets"][1].__setitem__(1, -5), r"view_offsets.1 has -5"),
        (lambda m: m["view_bytes"][3].__setitem__(1, 10**9), r"view_offsets.3 has \d+, and 1000000000 bytes: not in"),
        (lambda m: m["view_offsets"].reverse(), r"view_offsets.1 has "),
        (lambda m: m.update(view_bytes=None), r"view_offsets and view_bytes go together"),
    ],
)
def test_views_lie_one_after_another_in_a_tar(
    image_folder: Path, tmp_path_factory: pytest.TempPathFactory, change: Callable[[Any], object], named: str
) -> None:
    cache = tmp_path_factory.getbasetemp() / "lying-tars"
    if not cache.exists():
        encode_folder(image_folder, cache, format="webdataset")
    body = body_of(cache / "train" / "shards" / "000000.json")
    change(body)
    with pytest.raises(WorkError, match=rf"^M is damaged \({named}"):
        parse_marker(sealed(body), "M", 0)


def test_a_setting_beyond_the_bounds_is_named_by_its_option(cache: Path) -> None:
    settings = open_cache(cache, "train").spec.model_dump()
    for field, value, option in (("seed", 2**70, "--seed"), ("shard_size", 0, "--shard-size"), ("step", -1, "--step")):
        with pytest.raises(InputError, match=rf"^{option}: {field} is "):
            spec_of_settings(**settings | {field: value})


@pytest.mark.parametrize("name", ["manifest.json", "spec.json", "shards/000000.json", "items/labels.npy"])
@pytest.mark.parametrize("device", ["pipe", "/dev/zero", "folder"])
def test_what_is_no_regular_file_is_not_read(cache: Path, tmp_path: Path, name: str, device: str) -> None:
    copied = shutil.copytree(cache, tmp_path / "cache")
    path = copied / "val" / name
    path.unlink()
    if device == "pipe":
        os.mkfifo(path)
    elif device == "folder":
        path.mkdir()
    else:
        path.symlink_to(device)
    for command in (("verify", "cache"), ("inspect", "cache"), ("convert", "cache", "other", "--store", "rans")):
        finished = call_ci2p(*command, cwd=tmp_path)
        assert finished.returncode in (0, 1, 2) and "Traceback" not in finished.stderr
        assert finished.returncode or command[0] == "inspect"


def npy(array: np.ndarray, **changed: Any) -> bytes:
    stream = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | changed
    np.lib.format.write_array_header_1_0(stream, header)  # type: ignore[no-untyped-call]
    return stream.getvalue() + array.tobytes()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x93NUMPY", b"PK\x03\x04" + bytes(60), b"\x93NUMPY\x03\x00" + bytes(99),
        npy(np.arange(9, dtype=np.int32), shape=(2**62,)), npy(np.arange(9, dtype=np.int32), shape=(-1,)),
        npy(np.arange(9, dtype=np.int32), descr="|O"), npy(np.arange(9, dtype=np.int32), descr="<i8"),
        npy(np.arange(9, dtype=np.int32), shape=(3, 3)), npy(np.arange(9, dtype=np.int32), shape="()"),
        npy(np.arange(9, dtype=np.int32)).replace(b"{", b"(" * 4), npy(np.full(9, -2, np.int32)),
        npy(np.full(9, 2**31 - 1, np.int32)),
    ],
)  # fmt: skip
def test_arrays_that_lie_are_refused(cache: Path, tmp_path: Path, data: bytes) -> None:
    shutil.copytree(cache / "val" / "items", tmp_path / "items")
    (tmp_path / "items" / "labels.npy").write_bytes(data)
    with pytest.raises(WorkError, match=r"items(/labels.npy)? is damaged"):
        read_item_list(tmp_path)


def test_an_index_that_lies_leads_nowhere(zarr_cache: Path, tmp_path: Path) -> None:
    """A zarr shard's index has a checksum of its own, which anybody can make."""
    split = open_cache(zarr_cache, "val")
    reader = ViewReader(split.split_dir, split.manifest)
    whole, index_bytes = bytes(reader._fetch(split.manifest.shards[0].file, 0)), 4 * 2 * 16
    rng, refused = np.random.default_rng(2), 0
    for _ in range(120):
        index = np.frombuffer(whole[-index_bytes - 4 : -4], "<u8").copy()
        index[rng.integers(len(index))] = rng.choice(np.array([0, 1, 2**31, 2**63, 2**64 - 1, 2**64 - 2], np.uint64))
        footer = index.tobytes()
        data = whole[: -index_bytes - 4] + footer + google_crc32c.value(footer).to_bytes(4, "little")
        fresh = ViewReader(split.split_dir, split.manifest)
        fresh._fetch = lambda *_, data=data: memoryview(data)  # type: ignore[method-assign, misc]
        try:
            fresh.read(np.repeat(np.arange(4), 2), np.tile([0, 1], 4))
        except WorkError:
            refused += 1
    assert refused > 100


def test_names_cannot_move_a_terminal_s_cursor(cache: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(cache, tmp_path / "cache")
    for split in ("train", "val"):
        path = copied / split / "manifest.json"
        body = body_of(path)
        body["classes"] = ["\x1b[2J\x1b[31mred", "two\nlines", "\u202eleft"]
        path.write_bytes(sealed(body))
    seen = call_ci2p("inspect", "cache", cwd=tmp_path)
    assert seen.returncode == 0 and r"3 classes: \x1b[2J\x1b[31mred 7, two\nlines 7, \u202eleft 7" in seen.stdout
    assert "\x1b" not in seen.stdout + seen.stderr and "\u202e" not in seen.stdout
