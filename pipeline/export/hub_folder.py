"""`--to hub`: a folder ready for the Hugging Face Hub, held against the run before it has its name.

DIR/config.json          what timm and huggingface_hub's mixin build the model from, and what ci2p says of it
    model.safetensors    its weights; the run's own config inside, for `ci2p.load`
    README.md            the model card
"""

import contextlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.extras import not_installed
from ci2p_cache.process import parse_process, state_of, this_process
from ci2p_cache.publish import fsync_folder, publish
from pipeline.baselines.pixel_spec import is_pixels
from pipeline.export.graph import latent_shape
from pipeline.export.hub_config import hub_config
from pipeline.export.hub_push import open_hub
from pipeline.export.measured import measured_of
from pipeline.export.model_card import Published, model_card, without_places
from pipeline.export.record import export_record
from pipeline.models import load_by_timm
from pipeline.train.run_folder import CONFIG, PUBLISHED, RunConfig, newest_run, writing_to
from pipeline.train.trained_model import load_model, read_stored
from pipeline.train.weights_file import write_weights
from pipeline.train.window import ThroughWindow, centre_window

NO_LICENSE = "unknown"
"""The Hub's word where nobody named one."""

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_NUM_CHECKED = 4  # random inputs that the folder is held against the run on
_CHECK_SEED = 0


@dataclass(frozen=True)
class HubFolder:
    """What was published."""

    path: Path
    num_bytes: int
    seconds: float
    top1: float | None
    """In [0, 1], as the card claims it; None where it claims none."""
    url: str | None
    """On the Hub, where it was pushed to."""

    def lines(self) -> list[str]:
        """For people."""
        claimed = "no accuracy claimed" if self.top1 is None else f"top-1 {100 * self.top1:.2f} % on its card"
        lines = [
            f"{self.path}: {self.num_bytes / 2**20:.1f} MiB, {self.seconds:.1f} s, {claimed}",
            "  loaded back by timm, by HubModel and by ci2p.load: outputs equal to the run's",
        ]
        return lines if self.url is None else [*lines, f"  pushed to {self.url}"]

    def measured(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self) | {"path": str(self.path)}


def export_to_hub(
    run: str | None, *, out: Path | None = None, license: str = NO_LICENSE, push: str | None = None
) -> HubFolder:
    """Writes a run (the newest under runs/ by default) as a folder, by default RUN/hub, and sends it where `push` says.

    Raises InputError where the folder is there already, a package or a token is missing, and WorkError when what is
    loaded back is not the run's (nothing is written then), or the Hub refuses.
    """
    _require_package()
    if not _LICENSE.fullmatch(license):
        raise InputError(f"--license {license}: give an identifier of the Hub's, such as apache-2.0, or other")
    begin = time.monotonic()
    hub = None if push is None else open_hub(push)
    path = newest_run() if run is None else Path(run)
    stored = read_stored(path)
    folder = path if path.is_dir() else path.parent
    target = out or folder / "hub"
    if os.path.lexists(target):
        raise InputError(
            f"--out {target} is there already and is not written over; move it away, or give another --out"
        )
    model, config = load_model(path)
    inner = model.model if isinstance(model, ThroughWindow) else model
    assert isinstance(inner, nn.Module)
    weights = inner.state_dict()
    record = export_record(config, weights, "float" if is_pixels(config.data.spec) else "latents")
    public = config.model_copy(update={"recipe": without_places(config.recipe), "data": record.data})
    measured = measured_of(folder, stored.path, len(config.data.classes))
    num_params = sum(parameter.numel() for parameter in inner.parameters())
    card = model_card(Published(record, public, num_params, license, measured, push))
    fields = hub_config(inner, config, record, license)
    with writing_to(target.parent), _published_folder(target) as aside:
        write_weights(aside / PUBLISHED, weights, public.model_dump_json())
        publish(aside / CONFIG, (json.dumps(fields, indent=1) + "\n").encode())
        publish(aside / "README.md", card.encode())
        _hold_against(model, config, aside)
        num_bytes = sum(file.stat().st_size for file in aside.iterdir())
    seconds = time.monotonic() - begin
    url = None if hub is None else hub.upload(target)
    return HubFolder(target, num_bytes, seconds, None if measured is None else measured.top1, url)


def _require_package() -> None:
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise not_installed("hub", "--to hub", error) from None


@contextmanager
def _published_folder(target: Path) -> Iterator[Path]:
    """A folder that has another name until it is whole, and is gone on any error; what killed ones left goes too."""
    target.parent.mkdir(parents=True, exist_ok=True)
    begin, end = f".{target.name}.", ".unfinished"
    for entry in target.parent.iterdir():
        if entry.name.startswith(begin) and entry.name.endswith(end):
            process = parse_process(entry.name.removeprefix(begin).removesuffix(end))
            if process is not None and state_of(process) == "gone":
                shutil.rmtree(entry, ignore_errors=True)
    aside = target.with_name(f"{begin}{this_process()}{end}")
    aside.mkdir()
    try:
        yield aside
        fsync_folder(aside)
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    fsync_folder(target.parent)


def _hold_against(model: nn.Module, config: RunConfig, folder: Path) -> None:
    """Loads the folder in each of the ways that its card names. Raises WorkError where one is not the run's model."""
    from pipeline.export.hub_model import HubModel

    shape = config.data.input_shape if is_pixels(config.data.spec) else latent_shape(config.data)
    inputs_BCHW = torch.randn(_NUM_CHECKED, *shape, generator=torch.Generator().manual_seed(_CHECK_SEED))
    window = config.recipe.window
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it loads
        of_mixin = HubModel.from_pretrained(folder)
    ways: list[tuple[str, nn.Module, Tensor]] = [
        ("timm.create_model", load_by_timm(folder), centre_window(inputs_BCHW, window) if window else inputs_BCHW),
        ("HubModel.from_pretrained", of_mixin, inputs_BCHW),
        ("ci2p.load", load_model(folder)[0], inputs_BCHW),
    ]
    with torch.inference_mode():
        own_BK = model(inputs_BCHW)
        for way, loaded, given_BCHW in ways:
            theirs_BK = loaded(given_BCHW)
            if theirs_BK.shape != own_BK.shape or not torch.equal(theirs_BK, own_BK):
                raise WorkError(f"--to hub: what {way} makes of the folder is not the run's model; nothing was written")
