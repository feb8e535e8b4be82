"""Data sets of the `datasets` library, made on disk; no network."""

import pickle
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ci2p_cache.errors import InputError
from pipeline.encode.datasets import ImageSplit, open_dataset


def png(level: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def open_huggingface(
    data_dir: str | None, splits: tuple[str, ...] | None = None, val_fraction: float | None = None
) -> dict[str, ImageSplit]:
    return open_dataset("huggingface", data_dir, splits=splits, val_fraction=val_fraction, seed=0)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return pytest.importorskip("datasets", exc_type=ImportError)


def make_table(library: Any, labels: list[int]) -> Any:
    features = library.Features(
        {"note": library.Value("string"), "photo": library.Image(), "label": library.ClassLabel(names=["ant", "bee"])}
    )
    rows = {
        "note": ["" for _ in labels],
        "photo": [{"bytes": png(10 * i), "path": None} for i in range(len(labels))],
        "label": labels,
    }
    return library.Dataset.from_dict(rows, features=features)


def test_saved_splits(library: Any, tmp_path: Path) -> None:
    splits = {"train": make_table(library, [1, 0, 1]), "validation": make_table(library, [0, 1])}
    library.DatasetDict({**splits, "test": make_table(library, [-1])}).save_to_disk(str(tmp_path / "saved"))
    opened = open_huggingface(str(tmp_path / "saved"))
    train, val = opened["train"], opened["val"]
    assert train.classes == val.classes == ("ant", "bee")
    assert train.keys == ["000000000", "000000001", "000000002"]
    assert train.labels.tolist() == [1, 0, 1]
    assert [pickle.loads(pickle.dumps(train)).read_bytes(i) for i in range(3)] == [png(0), png(10), png(20)]
    assert val.labels.tolist() == [0, 1]
    with pytest.raises(InputError, match=r"--val-fraction 0\.1: .* has the split validation"):
        open_huggingface(str(tmp_path / "saved"), val_fraction=0.1)


def test_a_single_table_is_held_out_from(library: Any, tmp_path: Path) -> None:
    make_table(library, [0, 1] * 20).select(range(39, -1, -1)).save_to_disk(str(tmp_path / "one"))
    opened = open_huggingface(str(tmp_path / "one"))
    assert (len(opened["train"].keys), np.bincount(opened["val"].labels).tolist()) == (36, [2, 2])
    row = int(opened["val"].keys[0])
    assert opened["val"].read_bytes(0) == png(10 * (39 - row))


def test_a_folder_of_images(library: Any, tmp_path: Path) -> None:
    for name in ("train/ant/1", "train/bee/2", "test/bee/3"):
        path = tmp_path / "set" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(int(name[-1])))
    opened = open_huggingface(str(tmp_path / "set"))
    assert opened["train"].classes == ("ant", "bee")
    assert {opened["train"].read_bytes(i) for i in range(2)} == {png(1), png(2)}
    assert (opened["val"].labels.tolist(), opened["val"].read_bytes(0)) == ([1], png(3))


def test_tables_that_are_refused(library: Any, tmp_path: Path) -> None:
    table = make_table(library, [0, 1])
    for name, broken, message in (
        ("no-image", table.remove_columns("photo"), "no image column among note, label"),
        ("no-label", table.remove_columns("label"), "no ClassLabel column among note, photo"),
        ("hidden", make_table(library, [0, -1]), "some images have no label"),
    ):
        broken.save_to_disk(str(tmp_path / name))
        with pytest.raises(InputError) as caught:
            open_huggingface(str(tmp_path / name))
        assert f"--data-dir {tmp_path / name}: " in str(caught.value)
        assert message in str(caught.value)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"--data-dir .*/nothing: cannot be loaded"):
        open_huggingface(str(tmp_path / "nothing"))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        InputError, match=r"--dataset huggingface: the package datasets is not installed; pip install 'datasets>=3'"
    ):
        open_huggingface("frgfm/imagenette")
    with pytest.raises(InputError, match="--dataset huggingface needs --data-dir"):
        open_huggingface(None)
