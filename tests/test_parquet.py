"""Tables of images in parquet files: which columns, which classes, which names, and what is refused in a line."""

import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ci2p_cache.errors import InputError
from pipeline.encode.datasets import ImageDataset, ImageSplit, open_dataset, open_pool, parquet_images
from pipeline.encode.datasets.table_columns import NO_COLUMNS, TableColumns


def table(labels: Any, *, names: Sequence[str] | None = None, prefix: str = "image", **columns: Any) -> pa.Table:
    """Rows with the image b"PREFIX n", as the `datasets` library writes them where the classes have names."""
    images = [f"{prefix} {row}".encode() for row in range(len(labels))]
    if names is None:
        return pa.table({"image": images, "label": labels, **columns})
    structs = [{"bytes": data, "path": f"{prefix}-{row}.jpg"} for row, data in enumerate(images)]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(names)}}
    made = pa.table({"image": structs, "label": labels, **columns})
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write(root: Path, rows_in_group: int = 3, **tables: pa.Table) -> str:
    root.mkdir(parents=True, exist_ok=True)
    for name, each in tables.items():
        pq.write_table(each, root / f"{name.replace('_', '-')}.parquet", row_group_size=rows_in_group)
    return str(root)


def open_parquet(data_dir: str | None, columns: TableColumns = NO_COLUMNS, **settings: Any) -> ImageDataset:
    given: dict[str, Any] = {"splits": None, "val_fraction": None} | settings
    return open_dataset("parquet", data_dir, seed=0, columns=columns, **given)


def items(split: ImageSplit) -> list[tuple[str, str, bytes]]:
    return [(key, split.classes[split.labels[i]], split.read_bytes(i)) for i, key in enumerate(split.keys)]


def test_files_of_the_datasets_library(tmp_path: Path) -> None:
    names = ("bee", "ant")
    root = write(
        tmp_path / "set",
        train_0=table([0, 1, 0, 1], names=names),
        train_1=table([1, 1], names=names, prefix="more"),
        validation=table([1], names=names),
        test=table([-1, None], names=names),
    )
    (tmp_path / "set/README.md").write_text("a card")
    opened = open_parquet(root)
    assert items(opened["train"]) == [
        *((f"train-0/0000000{row}", names[row % 2], f"image {row}".encode()) for row in range(4)),
        *((f"train-1/0000000{row}", "ant", f"more {row}".encode()) for row in range(2)),
    ]
    assert items(pickle.loads(pickle.dumps(opened["val"]))) == [("validation/00000000", "ant", b"image 0")]
    assert [str(each) for each in opened.left_out] == [
        "files that are no parquet files (1: README.md)",
        "rows of test without labels (2: test.parquet)",
    ]
    assert opened.columns == ("image", "label")
    assert opened["train"].stamp(5).modified_ns == (tmp_path / "set/train-1.parquet").stat().st_mtime_ns
    by_path = open_parquet(root, TableColumns(key="image.path"))
    assert (list(by_path["val"].keys), by_path.columns) == (["image-0.jpg"], ("image", "label", "image.path"))
    pool = open_pool("parquet", root, "val", is_held_out=False, seed=0, columns=by_path.columns, classes=names)
    assert list(pool.keys) == ["image-0.jpg"]


def test_labels_and_their_names(tmp_path: Path) -> None:
    words = write(tmp_path / "words", one=table(["bee", "ant"] * 10).rename_columns(["photo", "kind"]))
    columns = TableColumns(image="photo", label="kind")
    opened = open_parquet(words, columns, val_fraction=0.2)
    assert (opened["train"].classes, len(opened["val"].keys)) == (("ant", "bee"), 4)
    (tmp_path / "names.txt").write_text("cat\nbee\nant\n")
    named = TableColumns(image="photo", label="kind", class_names=str(tmp_path / "names.txt"))
    assert open_parquet(words, named)["train"].classes == ("cat", "bee", "ant")
    numbers = write(tmp_path / "numbers", one=table([2, 0] * 10))
    assert open_parquet(f"{numbers}/one.parquet")["train"].classes == ("0", "1", "2")
    assert open_parquet(numbers, TableColumns(class_names=named.class_names))["train"].classes == ("cat", "bee", "ant")
    coded = write(tmp_path / "coded", one=table(pa.array(["bee", "ant"] * 10).dictionary_encode()))
    assert open_parquet(coded)["train"].classes == ("ant", "bee")
    assert open_pool(
        "parquet", numbers, "train", is_held_out=True, seed=0, columns=("image", "label"), classes=("x", "y", "z")
    ).classes == ("x", "y", "z")


def test_names_that_files_of_several_folders_share(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name / "train", part=table([0, 1], prefix=name))
    opened = open_parquet(f"{tmp_path}/*/train/*.parquet", val_fraction=0.5)
    keys = sorted([*opened["train"].keys, *opened["val"].keys])
    assert keys == [f"{name}/train/part/0000000{row}" for name in ("a", "b") for row in range(2)]
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/parquet-folders", recursive=True)
    try:
        opened = open_parquet("memory://parquet-folders/*/train/*.parquet", val_fraction=0.5)
    finally:
        memory.rm("/parquet-folders", recursive=True)
    assert sorted([*opened["train"].keys, *opened["val"].keys]) == keys


def test_a_server_is_asked_for_what_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = pa.table({"image": [os.urandom(200_000) + bytes([row]) for row in range(8)], "label": [0, 1] * 4})
    write(tmp_path, rows_in_group=2, train=large, val=large)
    memory = fsspec.filesystem("memory")
    for split in ("train", "val"):
        memory.pipe_file(f"/parquet-set/{split}.parquet", (tmp_path / f"{split}.parquet").read_bytes())
    fetched: list[int] = []
    cat_file = type(memory).cat_file

    def count(self: Any, path: str, start: Any = None, end: Any = None, **options: Any) -> bytes:
        data: bytes = cat_file(self, path, start=start, end=end, **options)
        fetched.append(len(data))
        return data

    monkeypatch.setattr(type(memory), "cat_file", count)
    monkeypatch.setattr(parquet_images, "HELD_BYTES", 500_000)
    try:
        split = open_parquet("memory://parquet-set")["train"]
        assert sum(fetched) < 500_000, "the images are not read to be listed"
        for row, key in enumerate(split.keys):
            assert (key, split.read_bytes(row)[-1]) == (f"train/0000000{row}", row)
        assert len(split.source._held) == 1, "row groups are let go of"  # type: ignore[attr-defined]
    finally:
        memory.rm("/parquet-set", recursive=True)


def test_an_image_that_is_not_there_is_one_image(tmp_path: Path) -> None:
    root = write(tmp_path, train=pa.table({"image": [b"x", None], "label": [0, 1]}), val=table([0, 1]))
    split = open_parquet(root)["train"]
    assert split.read_bytes(0) == b"x"
    with pytest.raises(OSError, match="its row has nothing in image"):
        split.read_bytes(1)


def test_a_damaged_row_group_is_that_of_its_images(tmp_path: Path) -> None:
    root = write(tmp_path, rows_in_group=2, train=table([0, 1, 0, 1]), val=table([0, 1]))
    split = open_parquet(root)["train"]
    path = tmp_path / "train.parquet"
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    data[begin : begin + 20] = bytes(20)
    path.write_bytes(data)
    assert split.read_bytes(0) == b"image 0"
    with pytest.raises(OSError, match=r"."):
        split.read_bytes(2)
    write(tmp_path, rows_in_group=1, train=table([0, 1, 0, 1], prefix="longer"))
    with pytest.raises(OSError, match="has changed since it was listed"):
        open_pool_of(split).read_bytes(0)


def open_pool_of(split: ImageSplit) -> ImageSplit:
    """The split with nothing open."""
    copied: ImageSplit = pickle.loads(pickle.dumps(split))
    return copied


@pytest.mark.parametrize(
    ("tables", "columns", "message"),
    [
        (
            {"x": table([0])},
            {"label": "kind"},
            r"--label-column kind: \S*x.parquet has no such column; it has image \(b",
        ),
        (
            {"x": table([0])},
            {"image": "label"},
            r"--image-column label: that column of \S* holds integer, and not imag",
        ),
        (
            {"x": table([0.5])},
            {},
            r"has no column of labels called label, labels, .* among image \(binary\), label \(dou",
        ),
        (
            {"x": table([0.5])},
            {"label": "label"},
            r"--label-column label: .* holds double, and not integers or strings",
        ),
        ({"x": pa.table({"label": [1]})}, {}, r"x.parquet has no column of image bytes among label \(integer\)"),
        (
            {"x": pa.table({"a": [b""], "b": [b""], "label": [1]})},
            {},
            r"several columns of bytes \(a, b\); name the images' by --image-column",
        ),
        ({"x": table([0, -3])}, {}, r"row 1 of x.parquet has label -3, which is no class; mend it"),
        (
            {"x": table([0, 2], names="ab")},
            {},
            r"row 1 of x.parquet has label 2, which is no class \(\S*x.parquet names",
        ),
        ({"x": table([0, None])}, {}, r"row 1 of x.parquet has no label \(-1 or nothing in label\)"),
        (
            {"x": table([0]), "y": table(["a"])},
            {},
            r"y.parquet differs from \S*x.parquet: the column label \(integer\)",
        ),
        ({"x": table([0], names="a"), "y": table([0], names="b")}, {}, r"name their classes differently"),
        ({"x": table([0, 1], note=["a", None])}, {"key": "note"}, r"--key-column note: row 1 of x.parquet holds None"),
        ({"x": table([0, 1], note=["a", "a"])}, {"key": "note"}, r"two images have the name a"),
        ({"x": table([0]).slice(1)}, {}, r"x.parquet and the files beside it hold no rows"),
    ],
)
def test_what_is_refused(tmp_path: Path, tables: dict[str, pa.Table], columns: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_parquet(write(tmp_path, **tables), TableColumns(**columns), val_fraction=0.5)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    root = write(tmp_path, train=table([0, 1]), val=table([0, 1]))
    data = (tmp_path / "train.parquet").read_bytes()
    for content in (data[:-20], b"", b"PAR1 no parquet PAR1", data[: len(data) // 2] + b"\xff" * 50 + data[-8:]):
        (tmp_path / "train.parquet").write_bytes(content)
        with pytest.raises(InputError, match=r"train.parquet is cut short or is no parquet file \(.*copy or download"):
            open_parquet(root)
    with pytest.raises(InputError, match="--dataset parquet needs --data-dir"):
        open_parquet(None)
    with pytest.raises(InputError, match="--image-column x: --dataset folder has no columns to choose"):
        open_dataset("folder", root, splits=None, val_fraction=None, seed=0, columns=TableColumns(image="x"))
