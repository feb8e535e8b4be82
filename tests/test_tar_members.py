"""Tars as programs and people make them: joined, compressed, cut, with holes, links and names of every kind."""

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOutFiles
from pipeline.encode.datasets.parquet_files import read_footer
from pipeline.encode.datasets.tar_members import file_members, tar_headers
from pipeline.encode.datasets.tar_samples import list_samples
from tests.test_tar_images import samples, tar_of


def names_in(path: Path, data: bytes) -> list[str]:
    path.write_bytes(data)
    with tar_headers(str(path)) as tar:
        return [member.name for member in file_members(tar, str(path))]


def test_joined_tars_are_read_to_their_end(tmp_path: Path) -> None:
    first, second = tar_of({"a.jpg": b"1"}), tar_of({"b.jpg": b"22"})
    data = first + second + bytes(3 << 20) + tar_of({"c.jpg": b"333"}) + bytes(100)
    assert names_in(tmp_path / "x.tar", data) == ["a.jpg", "b.jpg", "c.jpg"]
    with tar_headers(str(tmp_path / "x.tar")) as tar:
        found = [data[each.offset_data :][: each.size] for each in file_members(tar, "x.tar")]
    assert found == [b"1", b"22", b"333"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tar_of({"a": b""}) + b"garbage", "goes on at byte 10240, after its end mark, with something that is no tar"),
        (tar_of({"a": b""}) + bytes(512) + b"x" * 512, "goes on at byte 10752"),
        (tar_of({"a": b""}) + tar_of({"b": b"x"})[:1024], "is cut short or damaged at byte 11264"),
        (tar_of({"a": b""}) + tar_of({"a": b""}), "holds a twice"),
        (gzip.compress(tar_of({"a": b""}), mtime=0), "is compressed (gzip), .*decompress it first: gunzip x.tar"),
        (bz2.compress(tar_of({"a": b""})), "bunzip2 x.tar"),
        (lzma.compress(tar_of({"a": b""})), "unxz x.tar"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "unzstd x.tar"),
        (b"PK\x03\x04" + bytes(600), "(zip)"),
    ],
)
def test_tars_that_are_not_read(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        names_in(tmp_path / "x.tar", data)
    assert str(caught.value).startswith(f"--data-dir: {tmp_path}/x.tar")
    for part in message.split(".*"):
        assert part in str(caught.value)


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **pax: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.pax_headers = kind, link, pax
        member.size = 512 if pax else 0
        tar.addfile(member, io.BytesIO(b"1\n0\n512\n" + bytes(504)))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (entry("b.jpg", tarfile.SYMTYPE, "a\n.jpg"), "it stands for a\\n.jpg; pack plain files (tar --dereference"),
        (entry("b.jpg", tarfile.LNKTYPE, "a.jpg"), "it stands for a.jpg"),
        (entry("b.jpg", tarfile.FIFOTYPE), "b.jpg is a link or a special file (type b'6')"),
        (
            entry("b.jpg", **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "512"}),
            "b.jpg is stored as a sparse file; pack it again without --sparse",
        ),
        (entry("b.jpg", **{"GNU.sparse.major": "2"}), "stored as a sparse file"),
        (entry("b.jpg", **{"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}), "stored as a sparse file"),
        (entry("b.jpg", **{"GNU.sparse.map": "holes"}), "makes no sense"),
    ],
)
def test_members_without_bytes_of_their_own(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        names_in(tmp_path / "x.tar", data)
    assert message in str(caught.value)


def test_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    assert names_in(tmp_path / "x.tar", tar_of({name: b""})) == [name]


def test_what_is_no_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar")
    with (
        pytest.raises(InputError, match=r"cannot read .*x\.tar: it is no regular file"),
        tar_headers(str(tmp_path / "x.tar")),
    ):
        pass


def test_damaged_headers_end_in_one_line(tmp_path: Path) -> None:
    """The first blocks of tars with long names and extended headers, a few bytes of them changed, sums put right."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in (f"{'long' * 40}\u00e9.jpg", f"{'long' * 40}\u00e9.cls"):
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = 1, {"size": "1", "mtime": "1.5"}
            tar.addfile(member, io.BytesIO(b"1"))
    whole, chance, outcomes = buffer.getvalue(), random.Random(0), set()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 2, 5))):
            block = chance.randrange(8) * 512
            data[block + chance.choice((chance.randrange(512), chance.randrange(124, 157)))] = chance.choice(
                (0, 128, 255, 45, 48, 57, 83, 103, 120)
            )
        for block in range(0, len(data), 512):
            header = data[block : block + 512]
            if header[257:262] == b"ustar":
                data[block + 148 : block + 156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
        (tmp_path / "x.tar").write_bytes(data)
        try:
            list_samples(str(tmp_path / "x.tar"), LeftOutFiles())
            outcomes.add("read")
        except InputError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_a_tar_that_shrinks_is_an_error_of_the_image(tmp_path: Path) -> None:
    from pipeline.encode.datasets.tar_members import TarMembers

    (tmp_path / "x.tar").write_bytes(samples("ab"))
    source = TarMembers([str(tmp_path / "x.tar")], [0], [512], [7])
    assert source.read(0) == b"image a"
    (tmp_path / "x.tar").write_bytes(b"")
    with pytest.raises(OSError, match="has changed since it was listed"):
        source.read(0)


@pytest.mark.parametrize("read", [lambda url: tar_headers(url).__enter__(), read_footer], ids=["a tar", "a table"])
def test_a_store_whose_client_is_missing_names_its_extra(
    read: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, **options: object) -> object:
        raise ImportError("Install s3fs to access S3") from ModuleNotFoundError(name="s3fs")

    pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(InputError, match=r"^--data-dir s3://birds/x: .*s3fs is not installed; pip install 's3fs"):
        read("s3://birds/x")
