"""What belongs together in a tar: keys with dots, parts of a sample, labels of every kind, and what is left out."""

from pathlib import Path

import pytest

from ci2p_cache.errors import InputError
from ci2p_cache.left_out import LeftOutFiles
from pipeline.encode.datasets.tar_samples import list_samples
from tests.test_tar_images import tar_of

TWO = {"0.jpg": b"a", "0.cls": b"0", "1.jpg": b"b", "1.cls": b"1"}


def listed(tmp_path: Path, files: dict[str, bytes]) -> tuple[dict[str, tuple[int, bytes]], list[str]]:
    """Key -> (label, image) of a tar of these files beside TWO, and what is left out, "!" behind pictures."""
    data = tar_of({**TWO, **files})
    (tmp_path / "x.tar").write_bytes(data)
    left_out = LeftOutFiles()
    samples = list_samples(str(tmp_path / "x.tar"), left_out)
    found = {sample.key: (sample.label, data[sample.offset : sample.offset + sample.size]) for sample in samples}
    for key, sample in (("0", (0, b"a")), ("1", (1, b"b"))):
        assert found.pop(key) == sample
    return found, [f"{each}{'!' if each.pictures else ''}" for each in left_out.listed()]


@pytest.mark.parametrize(
    ("files", "samples", "left_out"),
    [
        (
            {"p.1.jpg": b"x", "p.1.cls": b"1", "p.2.png": b"y", "p.2.json": b'{"label": 0}'},
            {"p.1": (1, b"x"), "p.2": (0, b"y")},
            [],
        ),
        (
            {"d.e/v1.5_a.jpg": b"x", "d.e/v1.5_a.seg.png": b"m", "d.e/v1.5_a.cls": b"1"},
            {"d.e/v1.5_a": (1, b"x")},
            ["further pictures of a sample (1: x.tar: d.e/v1.5_a.seg.png)"],
        ),
        ({"x.rgb.png": b"x", "x.cls": b"1"}, {"x": (1, b"x")}, []),
        ({"0.1.jpg": b"x"}, {}, ["pictures without a label of their own (1: x.tar: 0.1.jpg)!"]),
        ({"0.depth.exr": b"x"}, {}, ["further pictures of a sample (1: x.tar: 0.depth.exr)"]),
        ({"z.heic": b"x"}, {}, ["pictures in a format that is not read here (1: x.tar: z.heic)!"]),
        ({"0.target.cls": b"4"}, {}, ["further labels of a sample (1: x.tar: 0.target.cls)"]),
        ({"0.json": b'{"label": 7}'}, {}, ["JSON files beside a .cls (1: x.tar: 0.json)"]),
        ({"0.txt": b"words"}, {}, ["text files in tars (1: x.tar: 0.txt)"]),
        ({"a.class": b"1"}, {}, ["files in tars that are neither images nor labels (1: x.tar: a.class)"]),
        ({".d/a.jpg": b"x"}, {}, ["hidden files and folders (1: x.tar: .d/a.jpg)"]),
        ({"n01.tar": b"x"}, {}, ["archives within tars (1: x.tar: n01.tar)!"]),
        ({"index.json": b"[]"}, {}, ["JSON files without a label (1: x.tar: index.json)"]),
        ({"Q.JPG": b"x", "Q.CLS": b"1"}, {"Q": (1, b"x")}, []),
        ({"Q.jfif": b"x", "Q.Json": b'{"label": 1}'}, {"Q": (1, b"x")}, []),
        ({"/x/./2.jpg": b"x", "x//2.cls": b"1"}, {"x/2": (1, b"x")}, []),
    ],
)
def test_every_member_is_an_image_a_label_or_counted(
    tmp_path: Path, files: dict[str, bytes], samples: dict[str, tuple[int, bytes]], left_out: list[str]
) -> None:
    assert listed(tmp_path, files) == (samples, left_out)


@pytest.mark.parametrize("data", [b"1", b"1\n", b" 1 ", b"\xef\xbb\xbf1\r\n", "1".encode("utf-16"), b"+1", b"001"])
def test_labels_that_are_plainly_integers(tmp_path: Path, data: bytes) -> None:
    assert listed(tmp_path, {"q.jpg": b"x", "q.cls": data})[0] == {"q": (1, b"x")}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"z.jfif": b"x", "z.txt": b"words"}, "sample z has no label; add z.cls"),
        ({"p.1.jpg": b"x", "p.2.jpg": b"x", "p.cls": b"0"}, "sample p has 2 images (p.1.jpg, p.2.jpg)"),
        ({"p.1.jpg": b"x", "p.2.jpg": b"x", "p.1.cls": b"0"}, "sample p.2 has no label"),
        (
            {"p.jpg": b"x", "p.cls": b"0", "p.1.jpg": b"x", "p.1.cls": b"0", "p.2.jpg": b"x"},
            "sample p.2 has no label, others beside it have one",
        ),
        ({"q.1.cls": b"1"}, "sample q.1 has no image (q.1.cls is a label alone)"),
        ({"q.heic": b"x", "q.cls": b"1"}, "sample q has no image (q.heic is of a format that is not read here)"),
        ({"q.jpg": b"x", "q.cls": b"1", "q.CLS": b"0"}, "sample q has two labels: q.cls and q.CLS"),
        ({"../q.jpg": b"x"}, "../q.jpg leads out of the tar"),
        ({"./0.jpg": b"x"}, "x.tar holds ./0.jpg twice"),
        ({"q\n.jpg": b"x"}, "sample q\\n has no label"),
    ],
)
def test_samples_of_which_one_cannot_know(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(InputError) as caught:
        listed(tmp_path, files)
    assert f"{tmp_path}/x.tar" in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("q.cls", b"", "it is empty"),
        ("q.cls", b"1.0", "'1.0'"),
        ("q.cls", b"1_0", "'1_0'"),
        ("q.cls", "\u0663".encode(), "'\\u0663'"),
        ("q.cls", b"3000000", "3000000 would be a class among more than a million"),
        ("q.cls", b"4294967295", "4294967295 would be"),
        ("q.cls", b"9" * 900, "9999999... would be"),
        ("q.cls", b"9" * 5000, "5000 bytes"),
        ("q.json", b"[" * 100_000, "no JSON: "),
        ("q.json", b'{"label": ' + b"9" * 8000 + b"}", "no JSON: "),
        ("q.json", b'{"label": "3"}', "\"label\" is '3'"),
        ("q.json", b'{"label": NaN}', '"label" is nan'),
        ("q.json", b'{"label": "\\udce9\\n"}', "\"label\" is '\\udce9\\n'"),
        ("q.json", b'{"label": 9223372036854775808}', "9223372036854775808 would be"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, name: str, data: bytes, why: str) -> None:
    with pytest.raises(InputError) as caught:
        listed(tmp_path, {"q.jpg": b"x", name: data})
    assert f"{tmp_path}/x.tar: {name} is not a label (" in str(caught.value)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_labels_that_are_no_text(tmp_path: Path) -> None:
    for data, why in ((b"\xe9", "line 1: byte 0xe9 is not UTF-8"), (b"1\0", "line 1: a NUL byte")):
        with pytest.raises(InputError, match=why):
            listed(tmp_path, {"q.jpg": b"x", "q.cls": data})
