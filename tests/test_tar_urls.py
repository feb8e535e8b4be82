"""Which tars `--data-dir` stands for, and which split each belongs to."""

from pathlib import Path

import pytest

from pipeline.encode.datasets.path_patterns import expand_braces
from pipeline.encode.datasets.tar_urls import find_tars, split_of


@pytest.mark.parametrize(
    ("tar", "split"),
    [
        ("/data/train/000.tar", "train"),
        ("s3://training-sets/birds/000.tar", ""),
        ("s3://training/val-000.tar", "val"),
        ("/x/ILSVRC2012_img_val.tar", "val"),
        ("/x/validation/7.tar", "val"),
        ("/x/test/7.tar", "test"),
        ("/x/interval/7.tar", ""),
        ("/x/restrained-7.tar", ""),
        ("/train/val/7.tar", "val"),
        ("/x/train/not-val-but-train.tar", ""),
        ("/x/test-run/000.tar", ""),
    ],
)
def test_the_split_of_a_tar(tar: str, split: str) -> None:
    assert split_of(tar) == split


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{train,val}.tar", ["train.tar", "val.tar"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{a,b}-{1..2}", ["a-1", "a-2", "b-1", "b-2"]),
        (
            "s3://b/{train,val}/{000..001}.tar",
            [f"s3://b/{s}/{i}.tar" for s in ("train", "val") for i in ("000", "001")],
        ),
    ],
)
def test_braces(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern) == names


def test_patterns_of_local_tars(tmp_path: Path) -> None:
    for name in ("train", "val", "other"):
        for i in range(3):
            (tmp_path / f"{name}-{i}.tar").touch()
    found = find_tars(f"{tmp_path}/{{train,val}}-{{0..1}}.tar")
    assert [Path(tar).name for tar in (*found.parts["train"], *found.parts["val"])] == [
        "train-0.tar",
        "train-1.tar",
        "val-0.tar",
        "val-1.tar",
    ]
    found = find_tars(f"{tmp_path}/train-*.tar")
    assert [Path(tar).name for tar in found.parts["train"]] == ["train-0.tar", "train-1.tar", "train-2.tar"]
