"""Scores by hand, and where raw images are found."""

from pathlib import Path

import pytest
import torch
from torch import nn

import ci2p
import pipeline  # noqa: F401  (before torchmetrics: it sees to it that torchvision imports)
from ci2p_cache.cache import open_cache
from ci2p_cache.errors import InputError
from pipeline.evaluate.images import open_rendering
from pipeline.evaluate.predictions import predict_cache, predict_inputs
from pipeline.evaluate.reports import PredictReport
from pipeline.evaluate.scores import Scoring
from pipeline.models.class_names import readable
from tests.conftest import call_ci2p, encode_folder

PIXELS = {"kind": "pixels", "dataset": "folder", "data_dir": None, "val_fraction": None, "data_seed": 0}
PIXELS |= {"short_edge": 36, "resize_mode": "crop"}


def test_scores_by_hand() -> None:
    scoring = Scoring(("a", "b", "c"))
    probabilities = torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.2, 0.7, 0.1]])
    scoring.add(probabilities[:3], torch.tensor([0, 1, 2]))
    scoring.add(probabilities[3:], torch.tensor([1]))
    scores = scoring.scores()
    assert scores.top1 == pytest.approx(3 / 4) and scores.top5 == 1.0 and scores.num_images == 4
    assert scores.per_class == {"a": 1.0, "b": 0.5, "c": 1.0}
    assert scores.confusion == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    # Confidences 0.9, 0.6, 0.7, 0.7 fall into three of the fifteen bins; right, wrong, right and right.
    assert scores.ece == pytest.approx((0.1 + 0.6 + 2 * 0.3) / 4, abs=1e-6)


def test_a_class_without_images_has_no_accuracy() -> None:
    scoring = Scoring(("a", "b"))
    scoring.add(torch.tensor([[0.8, 0.2]]), torch.tensor([0]))
    assert scoring.scores().per_class == {"a": 1.0, "b": None}
    assert "no images" in scoring.scores().lines()[2]


def test_scores_are_torchmetrics_to_the_last_digit() -> None:
    classification = pytest.importorskip("torchmetrics.classification", reason="compares with torchmetrics")
    generator = torch.Generator().manual_seed(0)
    for num_classes in (3, 12):
        classes = tuple(f"c{number}" for number in range(num_classes))
        scoring = Scoring(classes)
        theirs = {
            "top1": classification.MulticlassAccuracy(num_classes, average="micro"),
            "top5": classification.MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro"),
            "ece": classification.MulticlassCalibrationError(num_classes, n_bins=15, norm="l1"),
            "confusion": classification.MulticlassConfusionMatrix(num_classes),
        }
        for size in (37, 64):
            probabilities = (4 * torch.randn(size, num_classes, generator=generator)).softmax(1)
            probabilities[0] = torch.nn.functional.one_hot(torch.tensor(1), num_classes)  # a confidence of 1
            labels = torch.randint(num_classes, (size,), generator=generator)
            scoring.add(probabilities, labels)
            for metric in theirs.values():
                metric.update(probabilities, labels)
        ours = scoring.scores().measured()
        for name, metric in theirs.items():
            assert ours[name] == metric.compute().tolist(), name


class Brightness(nn.Module):
    """Logits that are plain to compute: the mean of three channels of a latent."""

    def forward(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        return latents_BCHW[:, :3].mean((2, 3))


def test_the_mean_is_over_probabilities_of_views() -> None:
    latents_BVCHW = torch.randn(4, 2, 192, 2, 2, generator=torch.Generator().manual_seed(0))
    each = [predict_inputs(Brightness(), latents_BVCHW[:, [view]]) for view in range(2)]
    torch.testing.assert_close(predict_inputs(Brightness(), latents_BVCHW), (each[0] + each[1]) / 2)


def test_a_cache_is_predicted_once_in_order(cache: Path) -> None:
    split = open_cache(cache, "val")
    batches = list(predict_cache(Brightness(), split, batch_size=4, device=torch.device("cpu"), tta=True))
    assert torch.cat([batch.labels for batch in batches]).tolist() == split.labels.tolist()
    assert torch.cat([batch.probabilities for batch in batches]).shape == (9, 3)


def test_mirror_images_that_a_cache_lacks_are_encoded_or_the_lack_is_said(image_folder: Path, tmp_path: Path) -> None:
    plain = encode_folder(image_folder, tmp_path / "plain", views="plain")
    flip = encode_folder(image_folder, tmp_path / "flip")
    arguments = ("--model", "ci2p_vit_tiny", "--epochs", "1", "--batch-size", "4", "--device", "cpu")
    finished = call_ci2p("train", "--shards", plain, *arguments, "--out", tmp_path / "run", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    run = tmp_path / "run"
    with pytest.raises(ci2p.InputError, match=r"^--tta: .*/plain/val holds no mirror images .*; give --images DIR"):
        ci2p.evaluate(run, tta=True, device="cpu")
    assert ci2p.evaluate(run, device="cpu").num_images == 9
    by_images = ci2p.evaluate(run, images=image_folder, tta=True, device="cpu", workers=0)
    from_cache = ci2p.evaluate(run, shards=flip, tta=True, device="cpu")
    assert by_images.ece == pytest.approx(from_cache.ece, abs=1e-5)
    assert by_images.ece != ci2p.evaluate(run, images=image_folder, device="cpu", workers=0).ece


def test_another_encoder_than_the_cache_s_is_refused(zarr_cache: Path) -> None:
    spec = open_cache(zarr_cache, "val").spec
    assert open_rendering(spec.model_dump(), "bundled", "cpu").preprocessing.short_edge == 36
    with pytest.raises(InputError, match=r"is not the encoder that the model's cache was made with"):
        open_rendering(spec.model_dump() | {"weights_sha256": "0" * 64}, "bundled", "cpu")


def test_a_record_of_what_was_trained_on_is_held_against_its_bounds(cache: Path) -> None:
    spec = open_cache(cache, "val").spec.model_dump(mode="json")
    for field, value in (("image_size", 0), ("views", ["../x"]), ("step", None), ("weights_sha256", 7)):
        with pytest.raises(InputError, match=rf"was trained on is damaged \({field}.*\); put back"):
            open_rendering(spec | {field: value}, "bundled", "cpu")
    with pytest.raises(InputError, match=r"was trained on is damaged \(image_size is 'x': .*\); put back"):
        open_rendering(PIXELS | {"image_size": "x"}, "bundled", "cpu")


def test_imagenet_s_classes_are_said_in_words() -> None:
    assert readable("n01440764") == "n01440764 (tench)" and readable("n99999999") == "n99999999"
    assert readable("tench") == "tench" and readable("n1") == "n1"
    scoring = Scoring(("n01440764", "mine"))
    scoring.add(torch.tensor([[0.9, 0.1]]), torch.tensor([0]))
    scores = scoring.scores()
    assert any("n01440764 (tench)  100.00 %" in line for line in scores.lines())
    assert list(scores.per_class) == ["n01440764", "mine"]
    report = PredictReport(("x.jpg",), torch.tensor([[0.9, 0.1]]), ("n01440764", "mine"), (), (), 0)
    assert report.lines(1) == ["x.jpg: n01440764 (tench) 90.0 %"]
    assert list(report.measured()["x.jpg"]) == ["n01440764", "mine"]
