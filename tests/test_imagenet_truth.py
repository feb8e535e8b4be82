"""The devkit and Kaggle's tables as people have them: saved again, incomplete, damaged; read, or refused by line."""

import gzip
import io
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.imagenet_truth import class_names, find_truth
from tests.test_imagenet import devkit_files, tar_of, write

MAPPING = "n01440764 tench, Tinca tinca\nn02012849 crane\n"
ANSWERS = (
    "ImageId,PredictionString\n"
    "ILSVRC2012_val_00000002,n01440764 1 2 3 4 n01440764 5 6 7 8 \n"
    "ILSVRC2012_val_00000001,n02012849 9 9 9 9 \n"
)
WORDS = {"n01440764": "tench, Tinca tinca", "n02012849": "crane"}
VAL_WNIDS = {2: "n01440764", 1: "n02012849"}
TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
META = "ILSVRC2012_devkit_t12/data/meta.mat"


def write_tables(root: Path, mapping: str | bytes = MAPPING, answers: str | bytes = ANSWERS) -> None:
    for name, text in (("LOC_synset_mapping.txt", mapping), ("LOC_val_solution.csv", answers)):
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def refusal(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        find_truth(root)
    message = str(caught.value)
    assert message.startswith(f"--data-dir: {root}") and "\n" not in message
    return message.removeprefix(f"--data-dir: {root}/")


@pytest.mark.parametrize(
    ("mapping", "answers"),
    [
        ("\ufeff" + MAPPING, "\ufeff" + ANSWERS),
        (MAPPING.replace("\n", "\r\n") + "\r\n", ANSWERS.replace("\n", "\r\n") + "\r\n\r\n"),
        (MAPPING.encode("utf-16"), ANSWERS.encode("utf-16")),
        (MAPPING.replace(" ", "\t", 1), ANSWERS.replace(",", ";") + ";\n;;\n"),
        (MAPPING, ANSWERS.replace(",", "\t")),
        ('"n01440764 tench, Tinca tinca"\nn02012849 crane\n', ANSWERS.replace("n02012849 9 9 9 9 ", '"n02012849 9"')),
        (MAPPING + MAPPING, ANSWERS + ANSWERS.partition("\n")[2]),
        (
            MAPPING,
            ' PredictionString ,note,"ImageId"\nn01440764,,ILSVRC2012_val_00000002.JPEG\n'
            'n02012849 9,"a, b",ILSVRC2012_val_00000001\n,,\n',
        ),
    ],
    ids=["byte order mark", "CRLF", "UTF-16", "semicolons", "tabs", "quotes", "repeated rows", "further columns"],
)
def test_tables_are_read_however_they_were_saved(tmp_path: Path, mapping: str | bytes, answers: str | bytes) -> None:
    write_tables(tmp_path, mapping, answers)
    truth = find_truth(tmp_path)
    assert truth is not None and (truth.words, truth.val_wnids) == (WORDS, VAL_WNIDS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", " is empty"),
        (MAPPING + "\nn03126707\n", ", line 4: 'n03126707' is not of the form 'n01440764 tench, Tinca tinca'"),
        ("n01440764 , Tinca\n", ", line 1: 'n01440764 , Tinca' is not of the form"),
        ("wnid words\n" + MAPPING, ", line 1: 'wnid words' is not of the form"),
        (MAPPING + "n02012849 maillot\n", ", line 3: n02012849 is 'maillot' here and 'crane' on line 2; remove one"),
        (MAPPING + "n03126707 cran\xe9".encode("latin-1").decode("latin-1"), None),
    ],
)
def test_a_mapping_that_does_not_map_is_refused_by_line(tmp_path: Path, text: str, message: str | None) -> None:
    if message is None:
        write_tables(tmp_path, text.encode("latin-1"))
        assert refusal(tmp_path).startswith("LOC_synset_mapping.txt, line 3: byte 0xe9 is not UTF-8")
    else:
        write_tables(tmp_path, text)
        assert refusal(tmp_path).startswith("LOC_synset_mapping.txt" + message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\n", " is empty"),
        (ANSWERS.partition("\n")[2], ", line 1: the columns ImageId and PredictionString were expected, once each"),
        ("\nImageId;Label\n", ", line 2: the columns ImageId and PredictionString were expected"),
        ("ImageId,PredictionString,ImageId\n", ", line 1: the columns"),
        (ANSWERS + "ILSVRC2012_val_00000003,\n", ", line 4: ILSVRC2012_val_00000003 has the PredictionString ''"),
        (ANSWERS + "ILSVRC2012_val_00000003\n", ", line 4: ILSVRC2012_val_00000003 has the PredictionString ''"),
        (ANSWERS + "ILSVRC2012_val_00000003,crane 1\n", ", line 4: ILSVRC2012_val_00000003 has the Prediction"),
        (ANSWERS + ",n01440764 1 2 3 4\n", ", line 4: there is no ImageId; a class such as n01440764 was expected"),
        (ANSWERS.replace(",", "\t") + "\tn01440764 1\n", ", line 4: there is no ImageId"),
        (ANSWERS.replace(",n01440764", ',"n01440764'), ", line 2: a quote is left open; correct the line"),
        ("ImageId,\"PredictionString\n", ", line 1: a quote is left open"),
        (ANSWERS + '\n"a"b,c\n', ", line 5: ',' expected after '\"'"),
        (ANSWERS + "a," + "x" * 200_000, ", line 4: field larger than field limit (131072)"),
        (ANSWERS + "ILSVRC2012_val_00000001,n01440764\n", ", line 4: ILSVRC2012_val_00000001 is of the class n01440764 "
         "here and n02012849 on line 3; remove one of them"),
        ("ImageId,PredictionString\nn01440764_1,n01440764\n", " lists no validation image"),
        ("ImageId,PredictionString\nILSVRC2012_val_000000012,n01440764\n", " lists no validation image"),
        (ANSWERS + "\0", ", line 4: a NUL byte"),
    ],
)  # fmt: skip
def test_answers_that_do_not_answer_are_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    write_tables(tmp_path, answers=text)
    assert refusal(tmp_path).startswith("LOC_val_solution.csv" + message)


def test_answers_that_are_not_utf8_are_refused_by_line(tmp_path: Path) -> None:
    write_tables(tmp_path, answers=(ANSWERS + "caf\xe9,n01440764").encode("latin-1"))
    assert refusal(tmp_path).startswith("LOC_val_solution.csv, line 4: byte 0xe9 is not UTF-8; save the file as UTF-8")


def test_rows_of_other_images_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tables(tmp_path, answers=ANSWERS + "n01440764_1,n01440764 1\nILSVRC2012_test_00000001,\n")
    with caplog.at_level(logging.WARNING):
        truth = find_truth(tmp_path)
    assert truth is not None and truth.val_wnids == VAL_WNIDS
    assert caplog.messages == [
        f"--data-dir: {tmp_path}/LOC_val_solution.csv: without 2 rows of no validation image: "
        "n01440764_1 on line 4, ILSVRC2012_test_00000001 on line 5"
    ]


def test_pipes_are_no_tables(tmp_path: Path) -> None:
    write_tables(tmp_path)
    (tmp_path / "LOC_val_solution.csv").unlink()
    os.mkfifo(tmp_path / "LOC_val_solution.csv")
    assert find_truth(tmp_path) is None


def test_no_two_classes_have_one_name() -> None:
    words = {"n1": "crane", "n2": "crane, bird", "n3": "crane (n1)"}
    names = class_names(["n1", "n2", "n3"], words)
    assert names == ("crane (n1) (n1)", "crane (n2)", "crane (n1) (n3)")


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ("1\n3\nn01440764\n", ", line 3: 'n01440764' is no class's number, 1 to 3; get it from https://"),
        ("1\ntench, Tinca tinca\n", ", line 2: 'tench, Tinca tinca' is no class's number"),
        ("1\n1001\n", ", line 2: '1001' is no class's number"),
        ("1\n0\n", ", line 2: '0' is no class's number"),
        ("1 2\n", ", line 1: '1 2' is no class's number"),
        ("9" * 5000, f", line 1: '{'9' * 40}' is no class's number"),
        ("1\n\n2\n", ", line 2 is blank, and each line counts"),
        ("1\n\udce9\n", ", line 2: byte 0xe9 is not UTF-8"),
    ],
)
def test_a_ground_truth_that_is_none_is_refused_by_line(tmp_path: Path, truth: str, message: str) -> None:
    write(devkit_files() | {TRUTH: truth.encode("utf-8", "surrogateescape")}, tmp_path)
    place = "ILSVRC2012_devkit_t12: data/ILSVRC2012_validation_ground_truth.txt"
    assert refusal(tmp_path).startswith(place + message)


def test_a_ground_truth_is_read_however_it_was_saved(tmp_path: Path) -> None:
    files = devkit_files()
    write(files, tmp_path)
    expected = find_truth(tmp_path)
    text = files[TRUTH].decode().replace("\n", " \r\n")
    for data in (("\ufeff" + text + "\r\n\r\n").encode(), text.encode("utf-16")):
        write({TRUTH: data}, tmp_path)
        assert find_truth(tmp_path) == expected


def meta_of(rows: list[tuple[Any, ...]], fields: tuple[str, ...] = ("ILSVRC2012_ID", "WNID", "words")) -> bytes:
    synsets = np.zeros(len(rows), dtype=[(field, object) for field in fields])
    for place, row in enumerate(rows):
        synsets[place] = row
    file = io.BytesIO()
    savemat = pytest.importorskip("scipy.io", reason="needs the extra [imagenet]").savemat
    savemat(file, {"synsets": synsets.reshape(-1, 1)})
    return file.getvalue()


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        (meta_of([(1, "n01440764")], ("ILSVRC2012_ID", "WNID")), "in data/meta.mat"),
        (meta_of([(np.inf, "n01440764", "tench")]), "in data/meta.mat"),
        (meta_of([(np.nan, "n01440764", "tench")]), "in data/meta.mat"),
        (meta_of([(0, "n01440764", "tench")]), "has no such class, or has it twice: 0 'n01440764'"),
        (meta_of([(1, "tench", "tench")]), "has no such class, or has it twice: 1 'tench'"),
        (meta_of([(1, "n01440764", "")]), "has no such class, or has it twice: 1 'n01440764'"),
        (meta_of([(1, "n01440764", "a"), (1, "n02012849", "b")]), "or has it twice: 1 'n02012849'"),
        (meta_of([(1, "n01440764", "a"), (2, "n01440764", "b")]), "or has it twice: 2 'n01440764'"),
        (meta_of([(1001, "n01440764", "a")]), "data/meta.mat lists no classes"),
        (meta_of([(1, "n01440764", "a")])[:300], "in data/meta.mat"),
        (b"<html>", "in data/meta.mat"),
        (b"", "in data/meta.mat"),
    ],
)
def test_a_meta_mat_without_the_classes_is_refused(tmp_path: Path, meta: bytes, reason: str) -> None:
    write(devkit_files() | {META: meta}, tmp_path)
    message = refusal(tmp_path)
    assert message.startswith("ILSVRC2012_devkit_t12 does not hold the tables of the devkit (") and reason in message


def test_a_devkit_that_was_unpacked_on_the_way_is_read(tmp_path: Path) -> None:
    tar_of(devkit_files(), tmp_path / "ILSVRC2012_devkit_t12.tar.gz")
    truth = find_truth(tmp_path)
    assert truth is not None and len(truth.words) == 3


def test_an_unpacked_devkit_lacks_a_file(tmp_path: Path) -> None:
    write(devkit_files(), tmp_path)
    (tmp_path / META).unlink()
    os.mkfifo(tmp_path / META)
    assert refusal(tmp_path).startswith("ILSVRC2012_devkit_t12 holds no data/meta.mat; get it from https://")


def test_a_damaged_devkit_is_one_line(tmp_path: Path) -> None:
    packed = gzip.compress(tar_of(devkit_files()))
    path = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    rng = np.random.default_rng(0)
    for _ in range(40):
        data = bytearray(packed)
        data[int(rng.integers(2, len(data)))] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(data[: int(rng.integers(1, len(data)))]))
        assert refusal(tmp_path).startswith("ILSVRC2012_devkit_t12.tar.gz ")
