"""Which tars `--data-dir` stands for, and which split each belongs to."""

import os
from pathlib import Path

import fsspec
import pytest

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.packed_files import find_packed, split_of
from pipeline.encode.datasets.path_patterns import expand_braces
from pipeline.encode.datasets.tar_images import TARS


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
        ("/x/Validation/7.TAR", "val"),
        ("/x/training_set/7.tar", "train"),
        ("/x/SetTrain_0.tar", "train"),
        ("https://x/7.tar?name=train.tar", ""),
        ("https://x/val/7.tar#test", "val"),
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
        ("{3..1}", ["3", "2", "1"]),
        ("{a,{b,c}}", ["a", "b", "c"]),
        ("{a", ["{a"]),
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
    found = find_packed(f"{tmp_path}/{{train,val}}-{{0..1}}.tar", TARS)
    assert [Path(tar).name for tar in (*found.parts["train"], *found.parts["val"])] == [
        "train-0.tar",
        "train-1.tar",
        "val-0.tar",
        "val-1.tar",
    ]
    found = find_packed(f"{tmp_path}/train-*.tar", TARS)
    assert [Path(tar).name for tar in found.parts["train"]] == ["train-0.tar", "train-1.tar", "train-2.tar"]


def fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found_in(data_dir: object) -> dict[str, list[str]]:
    return {
        part: [tar.rpartition("/")[2] for tar in tars] for part, tars in find_packed(str(data_dir), TARS).parts.items()
    }


def test_split_names_and_tars_in_any_case(tmp_path: Path) -> None:
    fill(tmp_path, "Train/0.TAR", "Train/1.Tar", "VAL/2.tar", "test_set/3.tar")
    assert found_in(tmp_path) == {"train": ["0.TAR", "1.Tar"], "val": ["2.tar"], "test": ["3.tar"]}


def test_everything_else_in_the_folder_is_counted(tmp_path: Path) -> None:
    fill(tmp_path, "train.tar", "val.tar", "classes.txt", "README", "0.idx", "a.png", ".hidden", ".git/config")
    fill(tmp_path, "train/deep/0.tar", "old/1.tar", "logs/today.txt")
    os.mkfifo(tmp_path / "fifo.tar")
    (tmp_path / "train-1.tar").symlink_to("nowhere")
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / "folder.tar").mkdir()
    found = find_packed(str(tmp_path), TARS)
    assert {part: len(tars) for part, tars in found.parts.items()} == {"train": 1, "val": 1}
    assert [f"{each}{'!' if each.pictures else ''}" for each in found.left_out] == [
        "files that are no tars (3: 0.idx, README, logs/today.txt)",
        "folders that are not looked into (1: linked/)",
        "hidden files and folders (2: .git/, .hidden)",
        "images outside of the tars (1: a.png)!",
        "pipes, devices and broken links called .tar (2: fifo.tar, train-1.tar)!",
        "tars in other folders (2: old/1.tar, train/deep/0.tar)!",
    ]


@pytest.mark.parametrize("name", ["train.tar.gz", "train-1.TGZ", "train.tar.zst", "x/train.tar.xz", "train.tbz2"])
def test_compressed_tars_are_named(tmp_path: Path, name: str) -> None:
    fill(tmp_path, "train.tar", "val.tar", name)
    with pytest.raises(InputError, match=rf"--data-dir {tmp_path}: {name} is compressed.* \(gunzip "):
        find_packed(str(tmp_path), TARS)
    with pytest.raises(InputError, match=rf"{name} is compressed"):
        find_packed(f"{tmp_path}/{{train.tar,{name}}}", TARS)
    with pytest.raises(InputError, match=rf"{name} is compressed"):
        find_packed(str((tmp_path / name).with_name("*")), TARS)


def test_tars_further_down_are_pointed_at(tmp_path: Path) -> None:
    fill(tmp_path, "shards/0.tar")
    with pytest.raises(InputError, match=r"no \.tar files in it; shards/0\.tar and others lie deeper"):
        find_packed(str(tmp_path), TARS)


@pytest.mark.parametrize("folder", ["set [v1]", "set {a,b}", "{0..3}", "a*b?", "100% ~x", "#1"])
def test_what_is_there_is_no_pattern(tmp_path: Path, folder: str) -> None:
    fill(tmp_path, f"{folder}/train-0.tar", f"{folder}/train-1.tar", f"{folder}/val-0.tar", "set v/train-7.tar")
    whole = {"train": ["train-0.tar", "train-1.tar"], "val": ["val-0.tar"]}
    for pattern in ("", "/*.tar", "/{train-{0..1},val-0}.tar", "/[tv]*-?.tar"):
        assert found_in(f"{tmp_path}/{folder}{pattern}") == whole
    assert found_in(f"file://{tmp_path}/{folder}") == whole
    assert found_in(f"{tmp_path.parent}/{tmp_path.name[:-1]}?/{folder}/*.tar") == whole


def test_files_that_are_called_like_a_pattern(tmp_path: Path) -> None:
    fill(tmp_path, "train[1].tar", "train1.tar", "val.tar")
    assert found_in(f"{tmp_path}/{{train[1],val}}.tar") == {"train": ["train[1].tar"], "val": ["val.tar"]}
    assert found_in(f"{tmp_path}/train[12].tar") == {"train": ["train1.tar"]}
    assert found_in(tmp_path)["train"] == ["train1.tar", "train[1].tar"]


def test_paths_that_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "train.tar", "x/0.tar")
    os.mkfifo(tmp_path / "fifo.tar")
    for data_dir, message in (
        (f"{tmp_path}/{{train,none}}.tar", f"there is no file or folder {tmp_path}/none.tar"),
        (f"{tmp_path}/fifo.tar", "fifo.tar is no regular file"),
        (f"{tmp_path}/{{train.tar,x}}", f"{tmp_path}/x is a folder among tars; add /*.tar to it"),
        (f"{tmp_path}/*", f"{tmp_path}/x is a folder; end the pattern in /*.tar"),
        (f"{tmp_path}/none*.tar", "there are no .tar files"),
        (f"{tmp_path}/{{0..99999999}}.tar", "stands for more than ten million names"),
        ("~nosuchuser/x", "give the whole path"),
        ("a\0b", "--data-dir a\\x00b: "),
        (" ", "--data-dir ' ': that is no name"),
    ):
        with pytest.raises(InputError) as caught:
            find_packed(data_dir, TARS)
        assert message in str(caught.value)


def test_servers_are_looked_through_in_the_same_way() -> None:
    filesystem = fsspec.filesystem("memory")
    for name in ("Train/0.tar", "TEST/1.TAR", "logs/x", "README", "[v1]/train-0.tar", "[v1]/val-0.tar"):
        filesystem.pipe_file(f"/trees/tree {{a}}/{name}", b"")
    root = "memory://trees/tree {a}"
    found = find_packed(root, TARS)
    assert found.parts == {"train": (f"{root}/Train/0.tar",), "test": (f"{root}/TEST/1.TAR",)}
    assert [str(each) for each in found.left_out] == [
        "files that are no tars (1: README)",
        "folders that are not looked into (2: [v1]/, logs/)",
    ]
    for pattern in ("{train,val}-0.tar", "*.tar"):
        assert found_in(f"{root}/[v1]/{pattern}") == {"train": ["train-0.tar"], "val": ["val-0.tar"]}
    assert found_in(f"{root}/{{Train/0.tar,TEST/1.TAR}}") == {"train": ["0.tar"], "test": ["1.TAR"]}
    assert found_in(f"{root}/{{Train,TEST}}") == {"train": ["0.tar"], "test": ["1.TAR"]}


def test_who_may_read_but_not_list(monkeypatch: pytest.MonkeyPatch) -> None:
    def exists(*arguments: object, **options: object) -> bool:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "exists", exists)
    assert found_in("memory://bucket/set/{train,val}-0.tar") == {"train": ["train-0.tar"], "val": ["val-0.tar"]}


def test_signatures_of_web_addresses_are_no_patterns() -> None:
    for query in ("?X-Sig=[a]*/test.tar&y={1,2}", "#train"):
        address = f"https://example.org/val-0.tar{query}"
        assert find_packed(address, TARS).parts == {"val": (address,)}
