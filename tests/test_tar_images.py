"""Tars of images: which sample a file belongs to, local and remote, and what is refused."""

import http.server
import io
import json
import multiprocessing
import re
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest

from ci2p_cache.errors import InputError, WorkError
from pipeline.encode.datasets import ImageDataset, ImageSplit, open_dataset
from pipeline.encode.datasets.tar_members import TarMembers


def tar_of(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def samples(keys: Sequence[str], num_classes: int = 2) -> bytes:
    files = {}
    for number, key in enumerate(keys):
        files[f"{key}.jpg"] = f"image {key}".encode("utf-8", "surrogateescape")
        files[f"{key}.cls"] = str(number % num_classes).encode()
    return tar_of(files)


def write(root: Path, tars: Mapping[str, bytes]) -> str:
    for name, data in tars.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(root)


def open_tars(
    data_dir: str | None, splits: tuple[str, ...] | None = None, val_fraction: float | None = None
) -> ImageDataset:
    return open_dataset("webdataset", data_dir, splits=splits, val_fraction=val_fraction, seed=0)


def items(split: ImageSplit) -> list[tuple[str, int, bytes]]:
    return [(key, int(split.labels[i]), split.read_bytes(i)) for i, key in enumerate(split.keys)]


TRAIN_ITEMS = [("a", 0, b"image a"), ("b", 1, b"image b"), ("c", 0, b"image c")]
VAL_ITEMS = [("a", 0, b"image a"), ("d", 1, b"image d")]


@pytest.mark.parametrize(
    ("train", "val"),
    [
        (["train/0.tar", "train/1.tar"], "val/0.tar"),
        (["train/0.tar", "train/1.tar"], "test/0.tar"),
        (["set-train-000.tar", "set-train-001.tar"], "set-val-000.tar"),
        (["Train_0.tar", "Train_1.tar"], "Validation_0.tar"),
    ],
)
def test_local_folders(tmp_path: Path, train: list[str], val: str) -> None:
    data_dir = write(
        tmp_path, {train[0]: samples(["b", "c"][::-1]), train[1]: samples(["a"]), val: samples(["a", "d"])}
    )
    opened = open_tars(data_dir)
    assert items(opened["train"]) == [("a", 0, b"image a"), ("b", 1, b"image b"), ("c", 0, b"image c")]
    assert items(opened["val"]) == VAL_ITEMS
    assert opened["train"].classes == opened["val"].classes == ("0", "1")


def test_tars_that_do_not_say_are_held_out_from(tmp_path: Path) -> None:
    data_dir = write(tmp_path, {"0.tar": samples([f"{i:02d}" for i in range(40)]), "1.tar": samples(["90", "91"])})
    opened = open_tars(data_dir)
    assert (len(opened["train"].keys), len(opened["val"].keys)) == (38, 4)
    assert not set(opened["train"].keys) & set(opened["val"].keys)
    assert len(open_tars(data_dir, val_fraction=0.5)["val"].keys) in (20, 21, 22)


def test_labels_images_and_names(tmp_path: Path) -> None:
    tar = tar_of(
        {
            "./x/1.jpeg": b"1", "x/1.json": b'{"label": 2, "caption": "."}',
            "x/2.seg.png": b"mask", "x/2.PNG": b"2", "x/2.txt": b"words", "x/2.cls": b" 1\n",
            "x/2.json": b'{"label": 0}', "3.v1.webp": b"no image", "3.webp": b"3", "3.cls": b"0", "3.json": b"[]",
        }
    )  # fmt: skip
    data_dir = write(tmp_path, {"train.tar": tar, "val.tar": samples(["a"]), "classes.txt": b"ant\nbee\ncat \n\n"})
    opened = open_tars(data_dir)
    assert items(opened["train"]) == [("3", 0, b"3"), ("x/1", 2, b"1"), ("x/2", 1, b"2")]
    assert opened["train"].classes == opened["val"].classes == ("ant", "bee", "cat")
    write(tmp_path, {"in/train/0.tar": tar, "in/classes.txt": b"a\nb\nc"})
    assert open_tars(f"{tmp_path}/in", ("train",))["train"].classes == ("a", "b", "c")


def test_without_names_both_splits_count_the_classes(tmp_path: Path) -> None:
    data_dir = write(tmp_path, {"train.tar": samples(list("abcd"), 4), "val.tar": samples(list("ab"), 2)})
    assert open_tars(data_dir, ("val",))["val"].classes == ("0", "1", "2", "3")


def test_keys_that_repeat_among_tars_get_the_tars_name(tmp_path: Path) -> None:
    tars = {"train-1.tar": samples(["a", "b"]), "train-0.tar": samples(["a"]), "val.tar": samples(["a"])}
    opened = open_tars(write(tmp_path, tars))
    assert opened["train"].keys == ["train-0/a", "train-1/a", "train-1/b"]
    assert opened["val"].keys == ["a"]
    write(tmp_path, {"train/train-0.tar": samples(["a"])})
    with pytest.raises(InputError, match="two tars have the name and the sample train-0/a"):
        open_tars(str(tmp_path))


def test_more_tars_than_are_kept_open(tmp_path: Path) -> None:
    data_dir = write(tmp_path, {f"train/{i:03d}.tar": samples([f"k{i:03d}"]) for i in range(70)})
    split = open_tars(data_dir, ("train",))["train"]
    for _ in range(2):
        assert [split.read_bytes(i) for i in range(70)] == [f"image k{i:03d}".encode() for i in range(70)]
    source: Any = split.source  # type: ignore[attr-defined]
    assert isinstance(source, TarMembers)
    assert len(source._descriptors) == 64


def test_memory_urls() -> None:
    filesystem = fsspec.filesystem("memory")
    for name, data in {
        "train-0.tar": samples(["a", "b"]),
        "val-0.tar": samples(["a", "d"]),
        "classes.txt": b"x\ny",
    }.items():
        filesystem.pipe_file(f"/birds/{name}", data)
    for data_dir in ("memory://birds", "memory://birds/{train,val}-{0..0}.tar", "memory://birds/*-0.tar"):
        opened = open_tars(data_dir)
        assert items(opened["train"]) == TRAIN_ITEMS[:2]
        assert items(opened["val"]) == VAL_ITEMS
        assert opened["val"].classes == ("x", "y")
    with pytest.raises(InputError, match=r"--data-dir memory://nothing: there are no \.tar files"):
        open_tars("memory://nothing")
    with pytest.raises(InputError, match=r"cannot read memory://birds/train-7\.tar"):
        open_tars("memory://birds/train-{7..8}.tar", ("train",))


class RangeHandler(http.server.BaseHTTPRequestHandler):
    """Serves `files` whole or by range, and writes down what was asked for."""

    files: ClassVar[Mapping[str, bytes]] = {}
    log: ClassVar[list[str | None]] = []
    broken: ClassVar[set[str]] = set()

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        if self.path in self.broken:
            self.send_error(500)
            return
        data = self.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        body = data if wanted is None else data[int(wanted[1]) : int(wanted[2]) + 1]
        self.send_response(200 if wanted is None else 206)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        if wanted is not None:
            self.send_header("Content-Range", f"bytes {wanted[1]}-{wanted[2]}/{len(data)}")
        self.end_headers()
        if with_body:
            self.log.append(self.headers.get("Range"))
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    RangeHandler.files = {"/train-0.tar": samples(["a", "b"]), "/val-0.tar": samples(["a", "d"])}
    RangeHandler.log = []
    RangeHandler.broken = set()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), RangeHandler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_http_reads_ranges_in_this_process_and_in_others(server: str) -> None:
    pytest.importorskip("aiohttp")
    opened = open_tars(f"{server}/{{train,val}}-0.tar")
    RangeHandler.log.clear()
    assert items(opened["train"]) == TRAIN_ITEMS[:2]
    assert RangeHandler.log == ["bytes=512-518", "bytes=2560-2566"]
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(items, (opened["val"],)) == VAL_ITEMS


def test_http_that_fails(server: str) -> None:
    pytest.importorskip("aiohttp")
    train = open_tars(f"{server}/train-{{0..0}}.tar", ("train",))["train"]
    RangeHandler.broken = {"/train-0.tar"}
    with pytest.raises(WorkError, match=f"^{server}/train-0.tar cannot be read .the server answered 500"):
        train.read_bytes(0)
    for missing in ("train-0", "train-1"):
        with pytest.raises(InputError, match=f"--data-dir: cannot read {server}/{missing}.tar: "):
            open_tars(f"{server}/{missing}.tar", ("train",))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jpg": b"x", "b.jpg": b"x", "b.cls": b"0"}, "sample a has no label"),
        ({"a.cls": b"0"}, "sample a has no image"),
        ({"a.jpg": b"x", "a.json": b'{"class": 1}'}, "sample a has no label"),
        ({"a.jpg": b"x", "a.png": b"x", "a.cls": b"0"}, "sample a has 2 images"),
        ({"a.jpg": b"x", "a.cls": b"cat"}, "a.cls is not a label"),
        ({"a.jpg": b"x", "a.cls": b"-1"}, "a.cls is not a label"),
        ({"a.jpg": b"x", "a.json": b"{"}, "a.json is not a label"),
        ({"a.jpg": b"x", "a.json": json.dumps({"label": 1.5}).encode()}, "a.json is not a label"),
        ({"a.jpg": b"x", "a.json": json.dumps({"label": True}).encode()}, "a.json is not a label"),
        ({"a.txt": b"x"}, "holds no samples"),
    ],
)
def test_samples_that_are_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    data_dir = write(tmp_path, {"train.tar": tar_of(files), "val.tar": samples(["a"])})
    with pytest.raises(InputError) as caught:
        open_tars(data_dir)
    assert str(caught.value).startswith(f"--data-dir: {tmp_path}/train.tar")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("tars", "fraction", "message"),
    [
        ({}, None, "there are no .tar files; expected a folder with train/*.tar"),
        ({"train.tar": samples(["a"])}, None, "no validation images (found train.tar)"),
        ({"val.tar": samples(["a"])}, None, "there is no train (found val.tar)"),
        ({"train.tar": b"", "more.tar": b""}, None, "more.tar does not say whether it is train or val"),
        ({"train.tar": samples(["a"]), "val.tar": samples(["a"])}, 0.1, "--val-fraction 0.1: val.tar holds"),
        ({"train.tar": b"no tar" * 200, "val.tar": b""}, None, "train.tar is cut short or is no uncompressed tar"),
        *(({"train.tar": samples("ab")[:size]}, None, "train.tar is cut short") for size in (1600, 2048, 2100, 2560)),
        ({"train.tar": samples("ab"), "val.tar": samples("a"), "classes.txt": b"x"}, None, "sample b has label 1"),
        ({"train.tar": samples("a"), "val.tar": samples("a"), "classes.txt": b"x\nx"}, None, "line 2: 'x' is also"),
    ],
)  # fmt: skip
def test_tars_that_are_refused(tmp_path: Path, tars: dict[str, bytes], fraction: float | None, message: str) -> None:
    data_dir = write(tmp_path, tars)
    with pytest.raises(InputError) as caught:
        open_tars(data_dir, ("train",) if "cut short" in message else None, val_fraction=fraction)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value) or fraction is not None


def test_three_splits_are_three(tmp_path: Path) -> None:
    tars = {f"{name}.tar": samples([name[0]]) for name in ("train", "val", "test")}
    opened = open_tars(write(tmp_path, tars))
    assert {split: opened[split].keys[0] for split in opened} == {"train": "t", "val": "v", "test": "t"}
    assert opened.layout == "tars: 1 for train, 1 for val, 1 for test"


def test_a_test_without_labels_is_counted(tmp_path: Path) -> None:
    unlabelled = tar_of({"q.jpg": b"", "r.jpg": b""})
    data_dir = write(
        tmp_path,
        {"train.tar": samples("ab"), "val.tar": samples("a"), "test.tar": unlabelled, "test-1.tar": unlabelled},
    )
    opened = open_tars(data_dir)
    assert list(opened) == ["train", "val"]
    assert [str(each) for each in opened.left_out] == ["images of test without labels (4: test-1.tar, test.tar, ...)"]
    with pytest.raises(InputError, match=r"there is no test .* for test-1\.tar and 1 more holds no labels"):
        open_tars(data_dir, ("test",))
    write(tmp_path, {"test.tar": samples("a")})
    with pytest.raises(InputError, match=r"test-1\.tar: sample q has no label"):
        open_tars(data_dir)


@pytest.mark.parametrize(
    ("labels", "num_classes"), [([0, 1, 50_000], None), ([0, 1, 900], 901), (range(0, 1000, 20), 981), ([2000], None)]
)
def test_classes_without_names_are_in_proportion(
    tmp_path: Path, labels: Sequence[int], num_classes: int | None
) -> None:
    files = {
        f"{i}.{ext}": data for i, label in enumerate(labels) for ext, data in (("jpg", b""), ("cls", b"%d" % label))
    }
    data_dir = write(tmp_path, {"train.tar": tar_of(files)})
    if num_classes is not None:
        assert len(open_tars(data_dir, ("train",))["train"].classes) == num_classes
        return
    with pytest.raises(
        InputError, match=rf"train\.tar: sample {len(labels) - 1} has label {max(labels)}, .*classes\.txt"
    ):
        open_tars(data_dir, ("train",))
    write(tmp_path, {"classes.txt": "".join(f"c{i}\n" for i in range(60_000)).encode()})
    assert len(open_tars(data_dir, ("train",))["train"].classes) == 60_000


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfant\r\nbee\r\n\r\n", "ant\nbee".encode("utf-16"), b"ant\rbee"])
@pytest.mark.parametrize("is_remote", [False, True])
def test_class_lists_as_editors_save_them(tmp_path: Path, data: bytes, is_remote: bool) -> None:
    files = {"train.tar": samples("ab"), "val.tar": samples("a"), "classes.txt": data}
    data_dir = write(tmp_path, files)
    if is_remote:
        data_dir = f"memory://lists{tmp_path}"
        for name, contents in files.items():
            fsspec.filesystem("memory").pipe_file(f"{data_dir}/{name}", contents)
    assert open_tars(data_dir)["train"].classes == ("ant", "bee")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ant\n\xe9", "classes.txt, line 2: byte 0xe9"),
        (b"ant\n\nbee", "line 2 is blank"),
        (b"", "classes.txt is empty"),
    ],
)
def test_class_lists_that_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        open_tars(write(tmp_path, {"train.tar": samples("ab"), "val.tar": samples("a"), "classes.txt": data}))
    assert message in str(caught.value)


def test_keys_are_one_line_of_utf8(tmp_path: Path) -> None:
    names = [b"caf\xe9", b"a\n\x1b[31m", b"p.1"]
    data_dir = write(tmp_path, {"train.tar": samples([name.decode("utf-8", "surrogateescape") for name in names])})
    assert open_tars(data_dir, ("train",))["train"].keys == ["a\\n\\x1b[31m", "caf\\xe9", "p.1"]
    write(tmp_path, {"train.tar": samples(["caf\udce9", "caf\\xe9"])})
    with pytest.raises(InputError, match=r"the samples 'caf.udce9' and 'caf..xe9' would both get the key caf.xe9"):
        open_tars(data_dir, ("train",))


def test_what_no_sample_took_is_said_with_its_split(tmp_path: Path) -> None:
    tar = tar_of({"a.jpg": b"", "a.cls": b"0", "a.txt": b""})
    opened = open_tars(write(tmp_path, {"train.tar": tar, "val.tar": samples("a"), "README": b""}))
    assert [str(each) for each in opened.left_out_of("train")] == [
        "files that are no tars (1: README)",
        "text files in tars (1: train.tar: a.txt)",
    ]
    write(tmp_path, {"train.tar": tar_of({"n01.tar": b"", "x.txt": b""})})
    with pytest.raises(InputError, match=r"train\.tar holds no samples.*; left out: archives within tars \(1"):
        open_tars(str(tmp_path))


def test_links_in_a_tar_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
        tar.addfile(link)
    with pytest.raises(InputError, match=r"b\.jpg is a link or a special file"):
        open_tars(write(tmp_path, {"train.tar": buffer.getvalue()}), ("train",))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--dataset webdataset needs --data-dir"):
        open_tars(None)
    with pytest.raises(InputError, match=r"there is no file or folder .*/none; expected"):
        open_tars(f"{tmp_path}/none")
    with pytest.raises(InputError, match=r"--data-dir: cannot (list|read) nosuchprotocol://"):
        open_tars("nosuchprotocol://bucket/*.tar")
