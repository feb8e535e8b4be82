"""`ci2p predict`: what it takes, what it leaves out, and the tables that it and `ci2p eval` write."""

import csv
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from ci2p_cache.errors import InputError
from pipeline.evaluate.inputs import find_inputs
from tests.conftest import CLASSES, REPOSITORY, call_ci2p, encode_folder, write_image, write_image_folder
from tests.test_cli import refused


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/, a cache of them and a run that is the newest."""
    home = tmp_path_factory.mktemp("predict")
    write_image_folder(home / "images", train=4, val=3)
    encode_folder(home / "images", home / "cache")
    train = ("train", "--shards", "cache", "--model", "ci2p_vit_tiny", "--epochs", "1", "--batch-size", "4")
    finished = call_ci2p(*train, "--device", "cpu", cwd=home)
    assert finished.returncode == 0, finished.stderr
    return home


@pytest.fixture
def pictures(trained: Path, tmp_path: Path) -> Path:
    """Two pictures in folders and one beside them; the run in reach."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    for name in ("a/one.png", "a/deep/two.png", "three.png"):
        write_image(tmp_path / name, len(name))
    return tmp_path


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_folders_and_patterns_in_order_each_file_once(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pictures)
    images = find_inputs(["three.png", "a", "./three.png", "a/deep/../one.png", "a/**/*.png", "*.png"])
    assert images.keys == ("three.png", "a/deep/two.png", "a/one.png")
    assert images.num_repeated == 5
    assert find_inputs(["{three,a/one}.png"]).keys == ("three.png", "a/one.png")
    assert find_inputs([str(pictures / "*")]).keys[-1] == str(pictures / "three.png")


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path: Path) -> None:
    write_image(tmp_path / "cat [1].png", 1)
    assert find_inputs([str(tmp_path / "cat [1].png")]).keys == (str(tmp_path / "cat [1].png"),)


@pytest.mark.parametrize("given", ["empty", "*.jpg", "", "a\0b", "memory://nothing/*.png", "nosuch9://x/*.png"])
def test_nothing_to_predict_is_refused(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="INPUT"):
        find_inputs([given])


def test_what_is_no_picture_in_a_folder_is_counted(pictures: Path) -> None:
    (pictures / "a" / "notes.txt").write_text("x")
    (pictures / "a" / "phone.heic").write_bytes(b"x")
    os.mkfifo(pictures / "a" / "pipe.png")
    images = find_inputs([str(pictures / "a")])
    assert len(images.keys) == 2
    assert {name.rpartition("/")[2]: entry.pictures for entry in images.left_out for name in entry.names} == {
        "notes.txt": False,
        "phone.heic": True,
        "pipe.png": True,
    }


def test_bad_images_are_named_and_the_others_predicted(pictures: Path) -> None:
    (pictures / "bad.png").write_bytes((pictures / "three.png").read_bytes()[:200])
    os.mkfifo(pictures / "pipe.png")
    given = ("bad.png", "missing.png", "a", "pipe.png", "/dev/null", "three.png")
    common = ("--device", "cpu", "--batch-size", "2", "--workers", "1")
    finished = call_ci2p("predict", *given, *common, "--csv", "p.csv", "--json", "p.json", cwd=pictures)
    assert "4 of 7 images could not be predicted" in refused(finished, status=1)
    for line in (
        "bad.png: truncated",
        "missing.png: cannot be read: No such file",
        "pipe.png: cannot be read: it is",
    ):
        assert line in finished.stderr
    rows = table_of(pictures / "p.csv")
    assert [row["key"] for row in rows] == ["a/deep/two.png", "a/one.png", "three.png"]
    assert list(rows[0])[1:] == ["class", "probability", "class_2", "probability_2", "class_3", "probability_3"]
    shares = json.loads((pictures / "p.json").read_text())
    for row in rows:
        assert float(row["probability"]) == pytest.approx(max(shares[row["key"]].values()), abs=1e-8)
        assert {row["class"], row["class_2"], row["class_3"]} == set(CLASSES)


def test_one_image_alone_that_is_bad_is_wrong_input(pictures: Path) -> None:
    (pictures / "bad.png").write_bytes(b"no image")
    assert "bad.png: " in refused(call_ci2p("predict", "bad.png", "--device", "cpu", cwd=pictures))


def test_a_table_that_cannot_be_written_is_refused_first(pictures: Path) -> None:
    assert "--csv a: that is a folder" in refused(call_ci2p("predict", "three.png", "--csv", "a", cwd=pictures))
    both = call_ci2p("predict", "three.png", "--csv", "-", "--json", "-", cwd=pictures)
    assert "both want standard output" in refused(both)
    assert "--predictions a: that is a folder" in refused(call_ci2p("eval", "--predictions", "a", cwd=pictures))


def test_standard_input_is_one_image(pictures: Path) -> None:
    script = f"import cli; cli.main(['predict', '-', '{pictures}/three.png', '--device', 'cpu', '--json', '-'])"

    finished = subprocess.run(
        [sys.executable, "-c", script],
        input=(pictures / "three.png").read_bytes(),
        capture_output=True,
        cwd=pictures,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        check=False,
    )
    piped, file = json.loads(finished.stdout).values()
    assert piped == file


@pytest.fixture
def server(pictures: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(pictures))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_urls(pictures: Path, server: str) -> None:
    fsspec.filesystem("memory").pipe_file("/shots/x.png", (pictures / "three.png").read_bytes())
    given = (f"{server}/three.png", f"{server}/none.png", "memory://shots", "memory://shots/*.png", "nosuch9://h/x.png")
    finished = call_ci2p("predict", *given, "--device", "cpu", "--json", "p.json", cwd=pictures)
    assert "2 of 4 images could not be predicted" in refused(finished, status=1)
    shares = json.loads((pictures / "p.json").read_text())
    assert list(shares) == [f"{server}/three.png", "memory:///shots/x.png"]
    assert shares[f"{server}/three.png"] == shares["memory:///shots/x.png"]
    assert f"{server}/none.png: cannot be read: the server answered 404" in finished.stderr


def test_predictions_of_eval_agree_with_its_scores(trained: Path) -> None:
    tables = []
    for source in ((), ("--images", "images", "--workers", "0"), ("--batch-size", "2")):
        finished = call_ci2p(
            "eval", *source, "--device", "cpu", "--predictions", "e.csv", "--json", "e.json", cwd=trained
        )
        assert finished.returncode == 0, finished.stderr
        rows, scores = table_of(trained / "e.csv"), json.loads((trained / "e.json").read_text())
        assert len(rows) == scores["num_images"] == 9
        assert sum(row["label"] == row["prediction"] for row in rows) / 9 == pytest.approx(scores["top1"])
        assert [row["key"] for row in rows] == sorted(row["key"] for row in rows)
        assert all(row["key"].startswith(row["label"]) for row in rows)
        tables.append([(row["key"], row["label"], row["prediction"]) for row in rows])
    assert tables[0] == tables[1] == tables[2]
