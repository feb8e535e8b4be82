"""ImageNet as it is downloaded and as folders: the same items from every layout, and what is refused."""

import io
import logging
import pickle
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import merge_left_out
from pipeline.encode.datasets import ImageDataset, ImageSplit, open_dataset
from pipeline.encode.datasets.imagenet_truth import class_names

WORDS = {
    "n01440764": "tench, Tinca tinca",
    "n02012849": "crane",
    "n03126707": "crane",
    "n00001740": "entity",  # an inner node: number 1001
}
IDS = {"n01440764": 3, "n02012849": 1, "n03126707": 2, "n00001740": 1001}
TRAIN = {wnid: [f"{wnid}_{i}.JPEG" for i in (7, 10026, 3)] for wnid in ("n03126707", "n01440764", "n02012849")}
VAL = ["n02012849", "n01440764", "n03126707", "n01440764"]  # the class of ILSVRC2012_val_00000001 and so on

TRAIN_KEYS = [f"{wnid}/{wnid}_{i}" for wnid in sorted(TRAIN) for i in (10026, 3, 7)]
VAL_KEYS = [
    "n01440764/ILSVRC2012_val_00000002",
    "n01440764/ILSVRC2012_val_00000004",
    "n02012849/ILSVRC2012_val_00000001",
    "n03126707/ILSVRC2012_val_00000003",
]


def contents(name: str) -> bytes:
    return name.encode() * (len(name) * 37 % 101)  # of sizes that are no multiple of a tar's block


def tar_of(files: Mapping[str, bytes], path: Path | None = None, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def devkit_files(prefix: str = "ILSVRC2012_devkit_t12/") -> dict[str, bytes]:
    savemat = pytest.importorskip("scipy.io", reason="needs the extra [imagenet]").savemat
    synsets = np.zeros(len(WORDS), dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    for row, (wnid, words) in enumerate(WORDS.items()):
        synsets[row] = (IDS[wnid], wnid, words)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets.reshape(-1, 1)})
    truth = "".join(f"{IDS[wnid]}\n" for wnid in VAL).encode()
    return {
        f"{prefix}data/ILSVRC2012_validation_ground_truth.txt": truth,
        f"{prefix}data/meta.mat": meta.getvalue(),
        f"{prefix}readme.txt": b"",
    }


def write(files: Mapping[str, bytes], root: Path) -> None:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def write_tars(root: Path) -> None:
    inner = {f"{wnid}.tar": tar_of({name: contents(name) for name in names}) for wnid, names in TRAIN.items()}
    tar_of(inner, root / "ILSVRC2012_img_train.tar")
    order = (3, 1, 4, 2)
    tar_of({val_name(i): contents(val_name(i)) for i in order}, root / "ILSVRC2012_img_val.tar")
    tar_of(devkit_files(), root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz")


def write_train_folders(root: Path) -> None:
    write({f"train/{wnid}/{name}": contents(name) for wnid, names in TRAIN.items() for name in names}, root)


def write_layout(layout: str, root: Path) -> None:
    if layout == "tars":
        write_tars(root)
        return
    base = root / "ILSVRC/Data/CLS-LOC" if layout == "kaggle" else root
    write_train_folders(base)
    flat = {i: f"val/{val_name(i)}" for i in range(1, 5)}
    by_class = {i: f"val/{VAL[i - 1]}/{val_name(i)}" for i in range(1, 5)}
    names = by_class if layout == "folders by class" else flat
    write({name: contents(val_name(i)) for i, name in names.items()}, base)
    if layout == "kaggle":
        solution = "ImageId,PredictionString\n" + "".join(
            f"{val_name(i)[:-5]},{wnid} 85 1 499 272 {wnid} 1 1 9 9 \n" for i, wnid in enumerate(VAL, start=1)
        )
        mapping = "".join(f"{wnid} {words}\n" for wnid, words in WORDS.items() if IDS[wnid] <= 1000)
        write({"LOC_val_solution.csv": solution.encode(), "LOC_synset_mapping.txt": mapping.encode()}, root)
    elif layout == "flat, devkit packed":
        tar_of(devkit_files(), root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz")
    else:
        write(devkit_files(), root)


def open_imagenet(root: Path, splits: tuple[str, ...] | None = None) -> dict[str, ImageSplit]:
    return open_dataset("imagenet", str(root), splits=splits, val_fraction=None, seed=0)


def refusal(root: Path, splits: tuple[str, ...] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        open_imagenet(root, splits)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("--data-dir")
    assert str(root) in message
    return message


@pytest.mark.parametrize(
    "layout", ["tars", "folders by class", "flat, devkit packed", "flat, devkit unpacked", "kaggle"]
)
def test_every_layout_gives_the_same_items(tmp_path: Path, layout: str) -> None:
    write_layout(layout, tmp_path)
    opened = open_imagenet(tmp_path)
    train, val = opened["train"], opened["val"]
    assert train.classes == val.classes == ("tench", "crane (n02012849)", "crane (n03126707)")
    assert train.keys == TRAIN_KEYS
    assert val.keys == VAL_KEYS
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert val.labels.tolist() == [0, 0, 1, 2]
    for split in (train, val, pickle.loads(pickle.dumps(train))):
        for i, key in enumerate(split.keys):
            assert split.read_bytes(i) == contents(f"{key.partition('/')[2]}.JPEG")
    assert open_imagenet(tmp_path, ("val",))["val"].keys == VAL_KEYS


def test_an_open_tar_does_not_travel(tmp_path: Path) -> None:
    write_tars(tmp_path)
    split = open_imagenet(tmp_path, ("train",))["train"]
    split.read_bytes(0)
    copy = pickle.loads(pickle.dumps(split))
    (tmp_path / "ILSVRC2012_img_train.tar").unlink()
    assert split.read_bytes(1) == contents(f"{TRAIN_KEYS[1].partition('/')[2]}.JPEG")
    with pytest.raises(OSError, match="No such file"):
        copy.read_bytes(1)


def test_a_tar_that_shrank_is_an_os_error(tmp_path: Path) -> None:
    write_tars(tmp_path)
    split = open_imagenet(tmp_path, ("train",))["train"]
    with (tmp_path / "ILSVRC2012_img_train.tar").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(OSError, match="976 of 1392 bytes: the tar has changed since it was listed"):
        split.read_bytes(8)


def test_without_devkit_classes_are_wnids(tmp_path: Path) -> None:
    write_layout("folders by class", tmp_path)
    shutil.rmtree(tmp_path / "ILSVRC2012_devkit_t12")
    assert open_imagenet(tmp_path)["val"].classes == tuple(sorted(TRAIN))
    assert class_names(["n1", "n2"], {"n2": "a b, c"}) == ("n1", "a b")


def test_validation_alone(tmp_path: Path) -> None:
    write_tars(tmp_path)
    (tmp_path / "ILSVRC2012_img_train.tar").unlink()
    val = open_imagenet(tmp_path, ("val",))["val"]
    assert val.keys == VAL_KEYS
    assert len(val.classes) == 3  # those of the devkit, without the inner node
    message = refusal(tmp_path)
    assert "there is no train (found ILSVRC2012_img_val.tar); expected ILSVRC2012_img_train.tar" in message
    assert "get it from https://image-net.org/" in message


def test_missing_pieces_are_named(tmp_path: Path) -> None:
    write_tars(tmp_path)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    message = refusal(tmp_path)
    assert "ILSVRC2012_img_val.tar does not say the classes" in message
    assert "put ILSVRC2012_devkit_t12.tar.gz beside it: get it from https://image-net.org/" in message
    (tmp_path / "ILSVRC2012_img_val.tar").unlink()
    message = refusal(tmp_path)
    assert "no validation images (found ILSVRC2012_img_train.tar)" in message
    assert "get it from https://image-net.org/" in message
    (tmp_path / "ILSVRC2012_img_train.tar").unlink()
    assert "there is neither ILSVRC2012_img_train.tar nor train/, and no val; expected" in refusal(tmp_path)


def test_damaged_pieces_are_named(tmp_path: Path) -> None:
    write_tars(tmp_path)
    train, devkit = tmp_path / "ILSVRC2012_img_train.tar", tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    whole = train.read_bytes()
    train.write_bytes(whole[:12_000])
    assert f"{train} is cut short" in refusal(tmp_path)
    train.write_bytes(b"<html>" * 500)
    assert f"{train} is cut short or is no uncompressed tar" in refusal(tmp_path)
    train.write_bytes(tar_of({"n01440764/n01440764_1.JPEG": b"x"}))
    assert "holds n01440764/n01440764_1.JPEG where a tar such as n01440764.tar was expected" in refusal(tmp_path)
    train.write_bytes(whole)
    devkit.write_bytes(devkit.read_bytes()[:200])
    assert f"{devkit} cannot be unpacked" in refusal(tmp_path)
    tar_of({"ILSVRC2012_devkit_t12/data/meta.mat": b"x"}, devkit, "w:gz")
    assert "holds no data/ILSVRC2012_validation_ground_truth.txt" in refusal(tmp_path)
    tar_of({**devkit_files(), "ILSVRC2012_devkit_t12/data/meta.mat": b"x"}, devkit, "w:gz")
    assert f"{devkit} does not hold the tables of the devkit" in refusal(tmp_path)


def test_validation_beyond_the_training_classes_is_refused(tmp_path: Path) -> None:
    write_layout("tars", tmp_path)
    tar_of({"n01440764.tar": tar_of({"n01440764_1.JPEG": b"x"})}, tmp_path / "ILSVRC2012_img_train.tar")
    assert "validation images are of the class n02012849, which the training images lack" in refusal(tmp_path)


def test_a_validation_image_that_no_truth_knows_is_refused(tmp_path: Path) -> None:
    write_tars(tmp_path)
    tar_of({val_name(5): b"x"}, tmp_path / "ILSVRC2012_img_val.tar")
    with pytest.raises(InputError, match=r"lists 4 validation images and ILSVRC2012_val_00000005.JPEG is none"):
        open_imagenet(tmp_path)


def test_fewer_validation_images_than_the_truth_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tars(tmp_path)
    tar_of({val_name(1): b"x"}, tmp_path / "ILSVRC2012_img_val.tar")
    with caplog.at_level(logging.WARNING):
        open_imagenet(tmp_path)
    assert caplog.messages == [f"{tmp_path}: 1 validation images of the 4 in the ground truth"]


def test_val_fraction_is_refused(tmp_path: Path) -> None:
    write_tars(tmp_path)
    with pytest.raises(InputError, match=r"--val-fraction 0\.1: ILSVRC2012_img_val.tar holds the validation images"):
        open_dataset("imagenet", str(tmp_path), splits=None, val_fraction=0.1, seed=0)


def left_out(opened: Mapping[str, ImageSplit]) -> dict[tuple[str, bool], tuple[str, ...]]:
    assert isinstance(opened, ImageDataset)
    everything = merge_left_out(opened.left_out, *(split.left_out for split in opened.values()))
    return {(entry.what, entry.pictures): entry.names for entry in everything}


def sort_first(root: Path, into: str = VAL[0]) -> None:
    """As the script that sorts validation images does, stopped after the first."""
    (root / "val" / into).mkdir()
    (root / "val" / val_name(1)).rename(root / "val" / into / val_name(1))


def append(tar_path: Path, name: str, data: bytes) -> None:
    with tarfile.open(tar_path, "a") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


def test_the_layout_says_what_was_found(tmp_path: Path) -> None:
    for layout, phrase in (
        ("tars", "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"),
        ("folders by class", "train/ in class folders and val/ in class folders"),
        ("flat, devkit packed", "train/ in class folders and val/ without class folders"),
    ):
        write_layout(layout, tmp_path / layout)
        opened = open_imagenet(tmp_path / layout)
        assert isinstance(opened, ImageDataset)
        assert opened.layout == f"ImageNet: {phrase}"
        assert not left_out(opened)


def test_half_sorted_validation_images(tmp_path: Path) -> None:
    write_layout("flat, devkit packed", tmp_path)
    sort_first(tmp_path)
    opened = open_imagenet(tmp_path)
    assert opened["val"].keys == VAL_KEYS
    assert [opened["val"].read_bytes(i) for i in (0, 2)] == [contents(val_name(2)), contents(val_name(1))]
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    opened = open_imagenet(tmp_path)
    assert opened["val"].keys == VAL_KEYS[2:3]
    names = tuple(f"val/{val_name(number)}" for number in (2, 3, 4))
    assert left_out(opened) == {("images beside the class folders", True): names}


def test_sorted_validation_images_that_contradict_the_truth_are_refused(tmp_path: Path) -> None:
    write_layout("flat, devkit packed", tmp_path)
    sort_first(tmp_path, into="n01440764")
    assert f"{val_name(1)} is of the class n02012849 by the ground truth; move it into n02012849/" in refusal(tmp_path)
    (tmp_path / "val/n01440764").rename(tmp_path / "val/n02012849")
    (tmp_path / "val" / val_name(1)).touch()
    assert f"holds one image as n02012849/{val_name(1)} and as {val_name(1)}; remove one" in refusal(tmp_path)


def test_images_that_were_appended_again_are_named(tmp_path: Path) -> None:
    write_tars(tmp_path)
    train, val = tmp_path / "ILSVRC2012_img_train.tar", tmp_path / "ILSVRC2012_img_val.tar"
    whole = train.read_bytes()
    append(val, f"./{val_name(2)}", b"x")
    assert f"{val} holds ./{val_name(2)} twice" in refusal(tmp_path)
    append(train, "n01440764.tar", tar_of({"n01440764_9.JPEG": b"x"}))
    assert f"{train} holds n01440764.tar twice" in refusal(tmp_path)
    train.write_bytes(whole)
    class_tar = tmp_path / "n02012849.tar"
    tar_of({"n02012849_1.JPEG": b"x"}, class_tar)
    append(class_tar, "n02012849_1.JPEG", b"y")
    tar_of({"n02012849.tar": class_tar.read_bytes()}, train)
    assert f"{train}: n02012849.tar holds n02012849_1.JPEG twice" in refusal(tmp_path)


def test_members_that_are_no_images_are_counted(tmp_path: Path) -> None:
    write_tars(tmp_path)
    append(tmp_path / "ILSVRC2012_img_val.tar", "README", b"x")
    append(tmp_path / "ILSVRC2012_img_train.tar", "doc/README.txt", b"x")
    opened = open_imagenet(tmp_path)
    assert (opened["train"].keys, opened["val"].keys) == (TRAIN_KEYS, VAL_KEYS)
    names = ("ILSVRC2012_img_train.tar: doc/README.txt", "ILSVRC2012_img_val.tar: README")
    assert left_out(opened) == {("files that are no images by their name", False): names}


def test_tars_by_other_names(tmp_path: Path) -> None:
    write_tars(tmp_path)
    train = tmp_path / "ILSVRC2012_img_train.tar"
    train.rename(tmp_path / "ILSVRC2012_img_train.TAR")
    assert open_imagenet(tmp_path)["train"].keys == TRAIN_KEYS
    (tmp_path / "ILSVRC2012_img_train.TAR").rename(tmp_path / "ILSVRC2012_img_train.tar.gz")
    assert "ILSVRC2012_img_train.tar.gz is compressed" in refusal(tmp_path)
    assert refusal(tmp_path).endswith("; gunzip it")


def test_folders_by_other_names(tmp_path: Path) -> None:
    write_layout("folders by class", tmp_path)
    (tmp_path / "train").rename(tmp_path / "Train")
    (tmp_path / "val").rename(tmp_path / "ILSVRC2012_validation")
    opened = open_imagenet(tmp_path)
    assert (opened["train"].keys, opened["val"].keys) == (TRAIN_KEYS, VAL_KEYS)
    write_train_folders(tmp_path)
    assert "Train/ and train/ are both named like train" in refusal(tmp_path)


def test_what_lies_beside_is_counted(tmp_path: Path) -> None:
    write_layout("kaggle", tmp_path)
    base = "ILSVRC/Data/CLS-LOC"
    beside = ["LOC_sample_submission.csv", "ILSVRC/Annotations/x.xml", f"{base}/test/1.JPEG", f"{base}/train/2.JPEG"]
    beside += [f"{base}/train/extra/3.JPEG", f"{base}/train/n01440764/list.txt", f"{base}/more/4.JPEG", ".DS_Store"]
    write(dict.fromkeys([*beside, "ILSVRC2012_img_test_v10102019.tar"], b"x"), tmp_path)
    (tmp_path / base / "val/n01440764.txt").touch()
    opened = open_imagenet(tmp_path)
    assert (opened["train"].keys, opened["val"].keys) == (TRAIN_KEYS, VAL_KEYS)
    assert left_out(opened) == {
        ("files that are no images by their name", False): (
            f"{base}/train/n01440764/list.txt",
            f"{base}/val/n01440764.txt",
            "LOC_sample_submission.csv",
        ),
        ("folders and tars of test images and other tasks", False): (
            "ILSVRC/Annotations/",
            f"{base}/test/",
            "ILSVRC2012_img_test_v10102019.tar",
        ),
        ("hidden files and folders", False): (".DS_Store",),
        ("images beside the class folders", True): (f"{base}/train/2.JPEG",),
        ("images in folders that are neither train nor val", True): (f"{base}/more/4.JPEG",),
        ("images in folders that are none of the classes", True): (f"{base}/train/extra/3.JPEG",),
    }
    assert "there is no test (found " in refusal(tmp_path, ("test",))
    assert "ImageNet's test images come without labels" in refusal(tmp_path, ("test",))


def test_folders_beside_the_tar_of_the_same_images(tmp_path: Path) -> None:
    write_tars(tmp_path)
    write_train_folders(tmp_path)
    assert left_out(open_imagenet(tmp_path)) == {
        ("folders and tars beside another of the same images", False): ("train/",)
    }


@pytest.mark.parametrize("layout", ["tars", "folders by class", "kaggle"])
def test_the_folder_around_is_refused_by_name(tmp_path: Path, layout: str) -> None:
    write_layout(layout, tmp_path / "data" / "imagenet")
    assert refusal(tmp_path).endswith(f"; give --data-dir {tmp_path}/data/imagenet")


def test_empty_class_folders(tmp_path: Path) -> None:
    write_layout("folders by class", tmp_path)
    (tmp_path / "val/n03126707" / val_name(3)).unlink()
    assert len(open_imagenet(tmp_path)["val"].keys) == 3
    (tmp_path / "train/n00000001").mkdir()
    (tmp_path / "train/n00000001/1.txt").touch()
    message = refusal(tmp_path)
    assert (
        "n00000001/ holds no images, but files that are no images by their name (1: train/n00000001/1.txt)" in message
    )
    shutil.rmtree(tmp_path / "train")
    write({"train/n01440764.tar": b""}, tmp_path)
    assert "train holds no folders such as n01440764/; unpack each of its tars" in refusal(tmp_path)
