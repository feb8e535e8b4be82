"""A run measured for its page: scores, calibration and examples, or what is missing to have them."""

from dataclasses import dataclass

from ci2p_cache.cache import open_cache
from ci2p_cache.errors import Ci2pError
from ci2p_cache.printable import printable
from pipeline.baselines.on_the_fly_record import images_of_record
from pipeline.encode.pictures import PictureDecoder
from pipeline.evaluate.predictions import Predictions, joined
from pipeline.evaluate.reports import EvalReport
from pipeline.evaluate.run import evaluate
from pipeline.evaluate.scores import CalibrationBins, Scores, calibration_bins
from pipeline.report.cache_figures import CacheFigures, figures_of
from pipeline.report.examples import Examples, show_examples
from pipeline.report.run_record import RunRecord
from pipeline.train.data_place import find_data
from pipeline.train.trained_model import load_model

_EXAMPLES = 12  # of each kind


@dataclass(frozen=True)
class Measured:
    """What could be measured of a run; None of what could not."""

    num_params: int | None = None
    scores: Scores | None = None
    bins: CalibrationBins | None = None
    examples: Examples | None = None
    cache: CacheFigures | None = None
    measured_on: str = ""
    missing: tuple[str, ...] = ()
    """For people: a line for each thing that is not there."""


def measure(run: RunRecord, *, shards: str | None, weights: str, device: str, workers: int | None) -> Measured:
    """Measures a run on the validation split of its cache, or of `shards`; decodes by the codec of `weights`.

    What a user can mend ends in a line of `missing`, and what does not need it is measured all the same.
    """
    missing: list[str] = []
    num_params, caches, report, predictions, examples = None, None, None, None, None
    try:
        num_params = sum(parameter.numel() for parameter in load_model(run.path)[0].parameters())
    except Ci2pError as error:
        missing.append(f"the model's weights, and what they predict: {error}")
    has_images = shards is None and images_of_record(run.config.data.spec) is not None
    if not has_images:
        try:
            path = shards or find_data(run.config.data, run.path)
            caches = [open_cache(path, split) for split in ("train", "val")]
        except Ci2pError as error:
            missing.append(f"the cache, and with it what is measured on it: {error}")
    if num_params is not None and (caches is not None or has_images):
        try:
            report = _evaluate(run, shards, device, workers)
            predictions = joined(report.predictions)
        except Ci2pError as error:
            missing.append(f"confusion, accuracy by class, calibration and examples: {error}")
    if predictions is not None and caches is not None:
        try:
            decoder = PictureDecoder(caches[1].spec, weights, device)
            examples = show_examples(caches[1], decoder, predictions, most=_EXAMPLES)
        except Ci2pError as error:
            missing.append(f"examples as decoded latents: {error}")
    return Measured(
        num_params=num_params,
        scores=None if report is None else report.scores,
        bins=None if predictions is None else _bins(predictions),
        examples=examples,
        cache=None if caches is None else figures_of(caches),
        measured_on="" if report is None else printable(report.measured_on),
        missing=tuple(map(printable, missing)),
    )


def _evaluate(run: RunRecord, shards: str | None, device: str, workers: int | None) -> EvalReport:
    return evaluate(
        str(run.path),
        shards=shards,
        images=None,
        split="val",
        tta=False,
        weights="bundled",
        device=device,
        batch_size=64,
        workers=workers,
    )


def _bins(predictions: Predictions) -> CalibrationBins:
    confidences, predicted = predictions.probabilities.max(1)
    return calibration_bins(confidences, predicted == predictions.labels)
