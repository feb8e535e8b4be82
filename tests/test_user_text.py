"""What people wrote: read however their editor saved it, or refused by file and line."""

import os
from pathlib import Path

import pytest

from ci2p_cache.errors import InputError
from ci2p_cache.printable import printable
from ci2p_cache.user_text import decode_text, lines_of, list_of, names_of, read_text

TEXT = "apple\nÄpfel\n\n  pear \n"


def refusal(data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        decode_text(data, "list.txt")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_the_same_text_however_it_was_saved(encoding: str, newline: str) -> None:
    assert decode_text(TEXT.replace("\n", newline).encode(encoding), "list.txt") == TEXT
    assert lines_of(TEXT) == [(1, "apple"), (2, "Äpfel"), (4, "pear")]


def test_byte_order_marks_of_joined_files_go() -> None:
    assert decode_text(b"\xfe\xff" + TEXT.encode("utf-16-be"), "list.txt") == TEXT
    assert decode_text("\ufeff\ufeffa\r\n\ufeffb".encode(), "list.txt") == "a\nb"
    assert decode_text(b"", "list.txt") == decode_text(b"\xef\xbb\xbf", "list.txt") == ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a\r\nb\r\nÄpfel\n".encode("latin-1"), "list.txt, line 3: byte 0xc4 is not UTF-8; save the file as UTF-8"),
        ("a\rb\rÄpfel".encode("mac-roman"), "list.txt, line 3: byte 0x80 is not UTF-8"),
        (b"\xef\xbb\xbfa\n\xff", "list.txt, line 2: byte 0xff is not UTF-8"),
        ("a\nb\n".encode("utf-16") + b"x", "list.txt, line 3: byte 0x78 is not UTF-16"),
        ("a\n\ud800".encode("utf-16", "surrogatepass"), "list.txt, line 2: byte 0x00 is not UTF-16"),
        ("a\nb".encode("utf-16-le"), "list.txt, line 1: a NUL byte, which no text has; save the file as UTF-8"),
        (b"a\r\nb\r\n\0", "list.txt, line 3: a NUL byte"),
    ],
)
def test_what_is_no_text_is_refused_by_line(data: bytes, message: str) -> None:
    assert refusal(data).startswith(message)


def test_lists_count_their_lines() -> None:
    assert names_of("a\n b c \nd\n\n \n", "list.txt") == ("a", "b c", "d")
    assert list_of("", "list.txt") == list_of("\n\n", "list.txt") == []
    assert list_of("7\n7\n", "list.txt") == ["7", "7"]
    with pytest.raises(InputError, match=r"^list.txt, line 2 is blank, and each line counts; fill it in or remove it$"):
        list_of("a\n\nb\n", "list.txt")
    with pytest.raises(InputError, match=r"^list.txt, line 3: 'a' is also line 1; each name may be given once$"):
        names_of("a\nb\na \n", "list.txt")


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "list.txt").write_bytes(b"a\r\n")
    for path, message in (
        (tmp_path, "it is a folder; give a text file"),
        (tmp_path / "pipe", "it is no regular file; give a text file"),
        (Path("/dev/zero"), "it is no regular file"),
        (tmp_path / "none", "it cannot be read: No such file"),
        (tmp_path / "list.txt/x", "it cannot be read: Not a directory"),
        (tmp_path / "loop", "it cannot be read: Too many levels of symbolic links"),
        (tmp_path / ("x" * 300), "it cannot be read: File name too long"),
        (Path("~nosuchuser/list.txt"), "it cannot be read: Could not determine home directory"),
        (Path("a\0b"), "it cannot be read: embedded null byte"),
    ):
        with pytest.raises(InputError) as caught:
            read_text(path, "it")
        assert str(caught.value).startswith(message)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_text("~/list.txt", "it") == read_text(tmp_path / "list.txt", "it") == "a\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a")
    (tmp_path / "list.txt").chmod(0)
    with pytest.raises(InputError, match=r"^it cannot be read: Permission denied$"):
        read_text(tmp_path / "list.txt", "it")


def test_any_name_can_be_printed() -> None:
    assert printable("Äpfel") == "Äpfel"
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\xe9"
    assert printable("\ud800") == "\\ud800"
