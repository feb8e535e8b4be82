"""Runs as one page: what it says is what was measured, what a user named stays text, and it asks for nothing."""

import base64
import json
import re
import shlex
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import cli
from ci2p_cache.cache import open_cache
from ci2p_cache.loader import PLAIN_VIEW
from ci2p_cache.reader import ViewReader
from pipeline.commands.recipe_options import resolve_recipe
from pipeline.encode.pictures import PictureDecoder
from pipeline.evaluate.predictions import Predictions
from pipeline.evaluate.scores import calibration_bins
from pipeline.report.calibration import _drawn
from pipeline.report.confusion import draw_confusion, pooled
from pipeline.report.curves import curve_of
from pipeline.report.examples import show_examples
from pipeline.report.look import DARK, LIGHT, as_png, as_svg, letters_on
from pipeline.report.page import duration, interval_of
from pipeline.report.repeat import repeat_command
from pipeline.report.run_record import RunRecord, labels_of, read_run
from pipeline.report.settings import group_by_setting
from pipeline.report.training_pictures import CONFUSION, CURVES, leave_pictures, score
from pipeline.train.data import open_training_data
from pipeline.train.recipe import load_recipe
from tests.chromium import CHROMIUM, Chromium
from tests.conftest import call_ci2p, encode_folder, write_image

HOSTILE = ("<img src=x onerror=alert(1)>", "$\\frac{x}", "n01440764")
RUN = "runs/a <b>run"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of three classes with odd names, and a run of two epochs on it."""
    home = tmp_path_factory.mktemp("report")
    for label, name in enumerate(HOSTILE):
        for split, count in (("train", 4), ("val", 3)):
            for number in range(count):
                write_image(home / "images" / split / name / f"{number}.png", 100 * label + 10 * count + number)
    encode_folder(home / "images", home / "cache")
    arguments = ("train", "cache", "--model", "ci2p_vit_tiny", "--epochs", "2", "--batch-size", "4", "--out", RUN)
    arguments += ("--pictures",)
    trained = call_ci2p(*arguments, "--device", "cpu", cwd=home)
    assert trained.returncode == 0, trained.stderr
    return home


@pytest.fixture(scope="module")
def page(home: Path) -> str:
    """The page of that run, and of a second one of its setting that stopped after an epoch and lost its checkpoint."""
    other = home / "runs/other"
    shutil.copytree(home / RUN, other, ignore=shutil.ignore_patterns("*.ckpt", "events*"))
    config = json.loads((other / "config.json").read_text())
    config["recipe"]["seed"] = 7
    (other / "config.json").write_text(json.dumps(config))
    first = json.loads((other / "metrics.jsonl").read_text().splitlines()[0])
    (other / "metrics.jsonl").write_text(json.dumps(first | {"val_loss": 9.0}) + "\n")
    written = call_ci2p("report", RUN, other, "--png", "png", "--out", "page.html", "--json", "-", cwd=home)
    assert written.returncode == 0, written.stderr
    assert json.loads(written.stdout)["missing"] == []
    return (home / "page.html").read_text()


def test_the_page_holds_what_was_measured(home: Path, page: str) -> None:
    measured = call_ci2p("eval", "--checkpoint", RUN, "--workers", "0", "--device", "cpu", "--json", "-", cwd=home)
    scores = json.loads(measured.stdout)
    assert f"{100 * scores['ece']:.2f}\xa0%" in page and f"{100 * scores['top1']:.2f}\xa0%" in page
    for said in ("n = 2", "not finished: 1 of 2 epochs", "Hardest mistakes", "Surest hits", "n01440764 (tench)"):
        assert said in page, said
    assert page.count("data:image/jpeg;base64,") == 2 * len(json.loads(json.dumps(scores["confusion"]))) * 3
    assert f"{open_cache(str(home / 'cache'), 'train').manifest.num_views:,}" in page


def test_what_a_user_named_is_text(page: str) -> None:
    assert "<img src=x" not in page and "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<b>run" not in page and "a &lt;b&gt;run" in page


def test_the_page_asks_for_nothing(page: str) -> None:
    parser = _References()
    parser.feed(page)
    assert len(parser.found) > 20 and all(value.startswith("data:") for value in parser.found)
    assert not parser.tags & {"script", "iframe", "object", "embed", "form", "base"}
    assert not re.search(r"url\(|@import", page) and "default-src 'none'" in page


class _References(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        names = ("src", "srcset", "href", "action", "poster", "data")
        self.found += [value or "" for name, value in attrs if name in names]
        assert not [name for name, _ in attrs if name.startswith("on")]


def test_charts_as_pictures(home: Path, page: str) -> None:
    names = {path.name for path in (home / "png").iterdir()}
    assert "curves.png" in names and len(names) == 1 + 2 * 3
    for path in (home / "png").iterdir():
        assert len(Image.open(path).convert("RGB").getcolors(1 << 24) or ()) > 20, path


_WHAT_IS_SHOWN = """
(async () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  const shown = [];
  for (const image of document.images) {
    await image.decode();
    const canvas = new OffscreenCanvas(160, 120), pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0, 160, 120);
    shown.push(new Set(new Uint32Array(pen.getImageData(0, 0, 160, 120).data.buffer)).size);
  }
  const root = document.documentElement;
  return {colours: shown, over: Math.max(root.scrollWidth, document.body.scrollWidth) - innerWidth,
          dark: document.images[0].currentSrc !== document.images[0].src};
})()
"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_in_a_browser(home: Path, page: str, tmp_path: Path) -> None:
    url = (home / "page.html").as_uri()
    with Chromium(tmp_path) as tab:
        for width, scheme in ((360, "light"), (1280, "dark")):
            tab.open(url, width=width, scheme=scheme)  # type: ignore[arg-type]
            shown = tab.value(_WHAT_IS_SHOWN)
            assert shown["over"] <= 0, f"{width} px: scrolls by {shown['over']} px"
            assert len(shown["colours"]) > 20 and min(shown["colours"]) > 8
            assert shown["dark"] == (scheme == "dark")
            assert tab.complaints() == [] and tab.requests() == [url]


def test_a_training_leaves_pictures_once(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [home / RUN / name for name in (CURVES, CONFUSION)]
    assert all(len(Image.open(path).convert("RGB").getcolors(1 << 24) or ()) > 20 for path in left)
    data = open_training_data(str(home / "cache"))
    assert leave_pictures(home / RUN, data, "cpu", finished=True) == []
    measured = call_ci2p("eval", "--checkpoint", RUN, "--workers", "0", "--device", "cpu", "--json", "-", cwd=home)
    assert score(home / RUN, data, "cpu").confusion == json.loads(measured.stdout)["confusion"]
    shutil.copytree(home / RUN, tmp_path / "run", ignore=shutil.ignore_patterns("*.png", "*.ckpt"))
    assert [path.name for path in leave_pictures(tmp_path / "run", data, "cpu", finished=False)] == [CURVES]
    assert leave_pictures(tmp_path, data, "cpu", finished=False) == [] and "not drawn" not in caplog.text
    # Of counts that are there already no model is opened, and the picture is the same.
    monkeypatch.delattr("pipeline.report.training_pictures.score")
    confusion = json.loads(measured.stdout)["confusion"]
    run = (tmp_path / "run").rename(tmp_path / Path(RUN).name)
    drawn = leave_pictures(run, data, "cpu", finished=True, confusion=confusion)
    assert [path.name for path in drawn] == [CONFUSION] and drawn[0].read_bytes() == left[1].read_bytes()


def test_a_training_does_not_fail_of_a_picture(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("no\nfont")

    shutil.copytree(home / RUN, tmp_path / "run", ignore=shutil.ignore_patterns("*.png", "*.ckpt"))
    monkeypatch.setattr("pipeline.report.look.as_png", broken)
    data = open_training_data(str(home / "cache"))
    assert leave_pictures(tmp_path / "run", data, "cpu", finished=True) == []
    assert caplog.text.count("was not drawn (no font)") == 2 and not list((tmp_path / "run").glob("*.png"))


def test_a_cache_that_is_gone_is_said(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / RUN, tmp_path / "run", ignore=shutil.ignore_patterns("*.ckpt"))
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["data"] |= {"path": "gone", "absolute_path": "", "path_from_run": ""}
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    written = call_ci2p("report", "run", cwd=tmp_path)
    assert written.returncode == 0 and "missing: the cache" in written.stdout
    page = (tmp_path / "run/report.html").read_text()
    assert "Missing:" in page and "gone" in page and "image/svg+xml" in page and "Confusion" not in page


def test_a_run_that_has_only_begun_has_a_page(home: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(home / RUN / "config.json", tmp_path / "run")
    written = call_ci2p("report", "run", "--shards", home / "cache", cwd=tmp_path)
    assert written.returncode == 0 and "there is no checkpoint of it so far" in written.stdout
    page = (tmp_path / "run/report.html").read_text()
    assert "no epoch is finished" in page and "not finished: 0 of 2 epochs" in page and "bytes a view" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "is no run"),
        ((RUN, f"{RUN}/../a <b>run"), "named twice"),
        ((RUN, "--out", "runs"), "is a folder"),
        ((RUN, "--png", "page.html/x"), "cannot be written"),
    ],
)
def test_wrong_input_is_refused_in_one_line(home: Path, page: str, arguments: tuple[str, ...], message: str) -> None:
    refused = call_ci2p("report", *arguments, cwd=home)
    assert refused.returncode in (1, 2) and message in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr


def test_a_missing_package_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.export.packages.find_spec", lambda name: None)
    refused = call_ci2p("report", RUN, cwd=home)
    assert refused.returncode == 2 and "pip install jinja2 matplotlib" in refused.stderr


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("paper-animals10", {}),
        ("quick", {"epochs": 3, "seed": 5, "compile": True}),
        ("best", {"compile": "reduce-overhead"}),
        ("best", {"model": "ci2p_vit_small", "betas": [0.8, 0.9], "flip": "none"}),
        ("paper-imagenet", {"epochs": 4, "warmup_epochs": 1.5, "init_from": 'runs/it\'s "mine"'}),
        ("quick", {"window": 8, "token_drop": 0.25, "lr": 3e-5, "min_lr": 1e-7, "precision": "bfloat16"}),
    ],
)
def test_the_command_to_repeat_makes_the_same_recipe(whole_run: Path, name: str, settings: dict[str, object]) -> None:
    recipe = load_recipe(name, settings)
    record = read_run(whole_run)
    command = repeat_command(RunRecord(record.path, record.config.model_copy(update={"recipe": recipe}), (), None))
    words = shlex.split(command)
    assert words[:2] == ["ci2p", "train"]
    given = cli.main.commands["train"].make_context("train", words[2:], obj=[]).params
    options = {key: value for key, value in given.items() if key in type(recipe).model_fields}
    assert resolve_recipe(given["recipe"], given["settings"], options) == recipe
    assert given["shards"] == record.config.data.path and str(given["out"]) == f"{whole_run}-again"


def test_seeds_of_a_setting_are_one_curve(whole_run: Path) -> None:
    record = read_run(whole_run)

    def run(seed: int, losses: list[float], **settings: object) -> RunRecord:
        recipe = record.config.recipe.model_copy(update={"seed": seed} | settings)
        lines = tuple({"epoch": epoch, "val_loss": loss} for epoch, loss in enumerate(losses, 1))
        return RunRecord(Path(f"s{seed}"), record.config.model_copy(update={"recipe": recipe}), lines, None)

    same = [replace(record, path=Path(name)) for name in ("a/x", "b/x", "c")]
    assert labels_of(same) == ["a/x", "b/x", "c"]
    settings = group_by_setting([run(0, [3, 2, 1]), run(0, [5.0], lr=0.5), run(1, [5, 4])])
    assert [setting.label for setting in settings] == ["ci2p_vit_tiny, lr 0.002", "ci2p_vit_tiny, lr 0.5"]
    assert settings[0].legend.endswith("(mean of n = 2)") and len(settings[1].runs) == 1
    begun = group_by_setting([run(0, [3]), run(1, [])])[0]
    assert begun.legend == "ci2p_vit_tiny" and curve_of(begun, "val_loss").mean == [3]
    curve = curve_of(settings[0], "val_loss")
    assert (curve.epochs, curve.mean, curve.lowest, curve.highest) == ([1, 2], [4, 3], [3, 2], [5, 4])


def test_mistakes_and_hits_are_the_surest_and_look_like_their_latents(zarr_cache: Path) -> None:
    cache, count = open_cache(str(zarr_cache), "val"), 9
    sure = torch.linspace(0.4, 0.98, count)
    predicted = (torch.from_numpy(cache.labels[:count]) + torch.arange(count) % 2) % 3  # every other one is wrong
    probabilities = ((1 - sure) / 2)[:, None].repeat(1, 3)
    probabilities[torch.arange(count), predicted] = sure
    decoder = PictureDecoder(cache.spec, "bundled", "cpu")
    labels, places = torch.from_numpy(cache.labels[:count]), np.arange(count)
    shown = show_examples(cache, decoder, Predictions(probabilities, labels, places), most=3)
    assert [each.key for each in shown.mistakes] == [cache.read_keys()[at] for at in (7, 5, 3)]
    assert [each.key for each in shown.hits] == [cache.read_keys()[at] for at in (8, 6, 4)]
    assert all(each.label == each.prediction for each in shown.hits)
    assert shown.mistakes[0].probability == pytest.approx(float(sure[7]))
    reader = ViewReader(cache.split_dir, cache.manifest)
    expected = decoder(reader.read_latents(cache.positions[[7]], np.array([PLAIN_VIEW])))[0].astype(int)
    drawn = np.asarray(Image.open(BytesIO(shown.mistakes[0].jpeg))).astype(int)
    assert np.abs(drawn - expected).mean() < 6


def test_the_bins_that_are_drawn_hold_every_image() -> None:
    confidences = torch.tensor([0.05, 0.97, 1.0, 1.0])
    bins = calibration_bins(confidences, torch.tensor([True, True, False, True]))
    count, confidence, accuracy = _drawn(bins)
    assert len(count) == 15 and count.sum() == 4 and count[-1] == 3
    assert float(confidence[-1]) == pytest.approx(0.99) and float(accuracy[-1]) == pytest.approx(2 / 3)


def test_the_same_chart_is_the_same_text_and_a_dollar_is_a_dollar(monkeypatch: pytest.MonkeyPatch) -> None:
    def chart(theme):  # type: ignore[no-untyped-def]
        return draw_confusion([[2, 1], [0, 3]], ["$x^{", "日本"], theme)

    monkeypatch.setitem(__import__("matplotlib").rcParams, "axes.facecolor", "red")  # of the user's own
    first = as_svg(chart, LIGHT)
    assert as_svg(chart, LIGHT) == first != as_svg(chart, DARK)
    svg = base64.b64decode(first.partition(",")[2]).decode()
    assert "$x^{" in svg and "日本" in svg and "#ff0000" not in svg and "system-ui" in svg
    assert as_png(chart, "$y_{").startswith(b"\x89PNG")


def test_a_matrix_of_a_thousand_classes_keeps_its_diagonal() -> None:
    shares, side = pooled(np.eye(1000) * np.linspace(0.1, 1, 1000), 200)
    assert (shares.shape, side) == ((200, 200), 5) and np.count_nonzero(shares) == 200
    assert shares[0, 0] == pytest.approx(0.1 + 4 * 0.9 / 999) and shares[-1, -1] == 1
    assert pooled(np.eye(7), 3)[0].tolist() == np.eye(3).tolist()


def test_figures_for_people() -> None:
    assert letters_on(LIGHT, (1, 1, 1, 1)) == LIGHT.ink and letters_on(DARK, (1, 1, 1, 1)) == DARK.surface
    assert [duration(s) for s in (7.12, 245, 11520)] == ["7.1 s", "4 min 5 s", "3 h 12 min"]
    low, high = interval_of(0.9, 100)
    assert low == pytest.approx(0.8256, abs=1e-4) and high == pytest.approx(0.9448, abs=1e-4)  # Wilson 1927
