"""A folder for the Hugging Face Hub is the run's model however it is loaded, and its card claims what was measured."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file
from torch import Tensor

import ci2p
from ci2p_cache.errors import InputError, WorkError
from pipeline.export.hub_config import hub_config
from pipeline.export.hub_folder import export_to_hub
from pipeline.export.hub_model import HubModel
from pipeline.export.model_card import FOLDER
from pipeline.export.record import export_record
from pipeline.models import baseline_names, model_names, reads_pixels
from pipeline.train.checkpoint import load_checkpoint, save_checkpoint
from pipeline.train.run_folder import RunConfig, build_model, read_config
from pipeline.train.trained_model import load_model
from pipeline.train.weights_file import read_weights, write_weights
from tests.conftest import CLASSES, call_ci2p, encode_folder, files_of, run_python

# isort: split
import timm

LATENTS = torch.randn(3, 192, 4, 4, generator=torch.Generator().manual_seed(1))
CENTRE = LATENTS[..., 1:3, 1:3]  # what a window of two cells sees


@pytest.fixture(scope="module")
def home(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs through a window of 2 x 2 cells of 4 x 4, exported to `folder`."""
    home = tmp_path_factory.mktemp("home")
    encode_folder(image_folder, home / "cache", image_size=64, step=0.5)
    trained = call_ci2p(
        *("train", "--shards", "cache", "--model", "ci2p_vit_tiny", "--epochs", "2", "--batch-size", "8"),
        *("--set", "window=2", "--device", "cpu", "--out", "run"),
        cwd=home,
    )
    assert trained.returncode == 0, trained.stderr
    made = call_ci2p("export", "run", "--to", "hub", "--out", "folder", "--license", "mit", "--json", "-", cwd=home)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["num_bytes"] == sum(map(len, files_of(home / "folder").values()))
    return home


def outputs(model: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(latents)


def test_every_way_of_loading_gives_the_run_s_model(home: Path) -> None:
    own = outputs(load_model(home / "run")[0], LATENTS)
    by_timm = timm.create_model(f"local-dir:{home / 'folder'}", pretrained=True).eval()
    assert torch.equal(outputs(by_timm, CENTRE), own)
    assert tuple(by_timm.pretrained_cfg["label_names"]) == CLASSES and by_timm.num_classes == len(CLASSES)
    mixed = ci2p.HubModel.from_pretrained(home / "folder")
    assert torch.equal(outputs(mixed, LATENTS), own) and tuple(mixed.label_names) == CLASSES
    loaded = ci2p.load(home / "folder", device="cpu")
    assert torch.equal(outputs(loaded.module, LATENTS), own) and tuple(loaded.classes) == CLASSES
    best = load_file(home / "run/best.safetensors")
    assert all(torch.equal(value, best[name]) for name, value in load_file(home / "folder/model.safetensors").items())


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_timm_builds_models_of_other_names(home: Path, tmp_path: Path, model: str) -> None:
    config = read_config(home / "run")
    config = config.model_copy(update={"recipe": config.recipe.model_copy(update={"model": model})})
    config = RunConfig.model_validate_json(config.model_dump_json().replace('"pretrained":false', '"pretrained":"a/b"'))
    (tmp_path / "run").mkdir()
    write_weights(tmp_path / "run/best.safetensors", build_model(config).state_dict(), config.model_dump_json())
    export_to_hub(str(tmp_path / "run/best.safetensors"), out=tmp_path / "folder")
    assert b"a/b" not in b"".join(files_of(tmp_path / "folder").values())
    by_timm = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True).eval()
    own = load_model(tmp_path / "run/best.safetensors")[0]
    assert torch.equal(outputs(by_timm, CENTRE), outputs(own, LATENTS))
    others = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True, num_classes=7).eval()
    assert outputs(others, CENTRE).shape == (3, 7)  # as with any of timm's: a new head on the same body
    name, weights = next(iter(own.model.named_parameters()))
    assert torch.equal(others.get_parameter(name), weights)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("ci2p_vit_tiny", {"tokens": 256}),
        ("ci2p_vit_tiny", {"class_token": True, "registers": 4, "pos_embed": "learn", "layer_scale": 1e-4}),
        *((name, {}) for name in (*model_names(), *baseline_names())),
    ],
)
def test_config_json_alone_makes_every_model_of_ours(
    home: Path, tmp_path: Path, name: str, variant: dict[str, object]
) -> None:
    config = read_config(home / "run")
    shape, spec = ((3, 64, 64), {"kind": "pixels"}) if reads_pixels(name) else ((192, 4, 4), config.data.spec)
    data = config.data.model_copy(update={"input_shape": shape, "spec": spec})
    config = config.model_copy(
        update={"recipe": config.recipe.model_copy(update={"model": name, **variant}), "data": data}
    )
    with torch.device("meta"):
        model = build_model(config)
        fields = hub_config(model, config, export_record(config, {}, "latents"), "mit")
        (tmp_path / "config.json").write_text(json.dumps(fields))
        by_timm = timm.create_model(f"local-dir:{tmp_path}")
    sizes, theirs = ({name: value.shape for name, value in each.state_dict().items()} for each in (model, by_timm))
    assert repr(getattr(model, "patch_embed", None)) == repr(getattr(by_timm, "patch_embed", None))
    assert sizes == theirs and tuple(by_timm.pretrained_cfg["input_size"]) == shape
    assert f"{by_timm.pretrained_cfg['classifier']}.weight" in sizes


def test_a_pixel_baseline_is_published_too(image_folder: Path, tmp_path: Path) -> None:
    trained = call_ci2p(
        *("baseline", "--model", "vit_tiny_p32", "--dataset", "folder", "--data-dir", image_folder, "--epochs", "1"),
        *("--image-size", "64", "--batch-size", "8", "--workers", "0", "--device", "cpu", "--out", "run"),
        cwd=tmp_path,
    )
    assert trained.returncode == 0, trained.stderr
    made = call_ci2p("export", "run", "--to", "hub", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    pixels = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    by_timm = timm.create_model(f"local-dir:{tmp_path / 'run/hub'}", pretrained=True).eval()
    assert torch.equal(outputs(by_timm, pixels), outputs(load_model(tmp_path / "run")[0], pixels))
    assert str(image_folder).encode() not in b"".join(files_of(tmp_path / "run/hub").values())
    image = next(image_folder.rglob("*.png"))
    shares = [
        json.loads(call_ci2p("predict", image, "--checkpoint", name, "--json", "-", cwd=tmp_path).stdout)
        for name in ("run", "run/hub")
    ]
    assert shares[0] == shares[1]


def test_what_the_mixin_saves_it_and_timm_load(home: Path, tmp_path: Path) -> None:
    model = HubModel.from_pretrained(home / "folder")
    with torch.no_grad():
        model.model.head.bias += 1.0  # as a training of one's own would
    model.save_pretrained(tmp_path / "mine")
    own = outputs(model, LATENTS)
    assert torch.equal(outputs(HubModel.from_pretrained(tmp_path / "mine"), LATENTS), own)
    assert torch.equal(
        outputs(timm.create_model(f"local-dir:{tmp_path / 'mine'}", pretrained=True).eval(), CENTRE), own
    )
    with pytest.raises(InputError, match=r"not what `ci2p export` wrote; load it with ci2p\.HubModel"):
        ci2p.load(tmp_path / "mine")


def test_the_card_s_code_runs_in_a_new_process(home: Path, image_folder: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (home / "folder/README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3 and all(FOLDER in block for block in blocks)
    shutil.copytree(home / "folder", tmp_path / FOLDER)
    shutil.copy(next(image_folder.rglob("*.png")), tmp_path / "image.jpg")
    ran = run_python("-c", "\n".join(blocks), cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == str(list(CLASSES)) and CLASSES[0] in ran.stdout.splitlines()[0]


def test_the_card_claims_what_metrics_has_of_these_weights(home: Path) -> None:
    lines = [json.loads(line) for line in (home / "run/metrics.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: (line["val_top1"], -line["epoch"]))
    card = ModelCard.load(home / "folder/README.md")
    assert (card.data.license, card.data.library_name, card.data.metrics) == ("mit", "timm", ["accuracy"])
    assert [result.metric_value for result in card.data.eval_results] == [best["val_top1"]]  # top-5 of 3 is no feat
    assert f"| {100 * best['val_top1']:.2f} % | of too few classes | {best['val_loss']:.4f} |" in card.text
    assert f"epoch {best['epoch']}, on the validation split (9 images)" in card.text
    assert "| window | 2 |" in card.text and "step 0.5" in card.text and "bmshj2018" in card.text
    titles = re.findall(r"^## (.*)$", card.text, re.MULTILINE)
    assert titles == ["Model Details", "Model Usage", "Training Data", "Recipe", "Evaluation"]


@pytest.mark.parametrize("case", ["last.ckpt", "other weights", "an older ci2p killed behind its best weights"])
def test_nothing_is_claimed_of_weights_that_metrics_does_not_have(home: Path, tmp_path: Path, case: str) -> None:
    run = shutil.copytree(home / "run", tmp_path / "run")
    if case == "last.ckpt":
        source = run / case
    elif case == "other weights":
        source = run
        weights, told = read_weights(run / "best.safetensors")
        write_weights(run / "best.safetensors", {name: 2 * value for name, value in weights.items()}, str(told))
    else:
        source = run
        checkpoint = load_checkpoint(run / "last.ckpt")
        assert checkpoint is not None
        save_checkpoint(run, replace(checkpoint, best=None))
        line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line | {"epoch": 3, "val_top1": 1.0}) + "\n")
    made = export_to_hub(str(source), out=tmp_path / "folder")
    card = ModelCard.load(tmp_path / "folder/README.md")
    assert made.top1 is None and card.data.eval_results is None and card.data.metrics is None
    assert "%" not in card.text and "is not among what the run measured" in card.text
    assert card.data.license == "unknown" and "none was named" in card.text


def test_the_folder_says_nothing_of_the_machine(home: Path) -> None:
    written = b"".join(files_of(home / "folder").values())
    assert str(home).encode() not in written and str(home.parent).encode() not in written


def test_eval_measures_it_on_a_cache_that_is_named(home: Path, tmp_path: Path) -> None:
    scores = [
        json.loads(call_ci2p("eval", "--checkpoint", name, "--shards", "cache", "--json", "-", cwd=home).stdout)
        for name in ("run", "folder")
    ]
    assert scores[0]["confusion"] == scores[1]["confusion"]
    refused = call_ci2p("eval", "--checkpoint", home / "folder", cwd=tmp_path)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "with --shards CACHE" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "run", "--to", "hub", "--out", "folder"), "folder is there already and is not written over"),
        (("export", "run", "--to", "hub", "--out", "x", "--images", "y"), "--images y says nothing to --to hub"),
        (("export", "run", "--to", "torch", "--push", "a/b"), "--push a/b says nothing to --to torch"),
        (("export", "run", "--to", "hub", "--out", "x", "--license", "My own"), "--license My own: give an identifier"),
        (("export", "run", "--to", "hub", "--out", "x", "--push", "a/b/c"), "give OWNER/NAME"),
        (("export", "run", "--to", "hub", "--out", "x", "--push", "a/b"), "there is no token"),
        (("inspect", "folder"), "is what `ci2p export --to hub` wrote, and no run"),
        (("train", "--shards", "cache", "--out", "folder"), "is what `ci2p export --to hub` wrote, and no run"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    refused = call_ci2p(*arguments, cwd=home)
    errors = refused.stderr.strip().splitlines()
    assert refused.returncode == 2 and errors[-1].startswith("Error:") and message in errors[-1], refused.stderr
    assert "Traceback" not in refused.stderr and not (home / "x").exists()


def test_a_folder_that_is_another_model_gets_no_name(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HubModel, "forward", lambda self, latents_BCHW: self.model(latents_BCHW[..., :2, :2]))
    with pytest.raises(WorkError, match=r"HubModel.from_pretrained makes of the folder is not the run's"):
        export_to_hub(str(home / "run"), out=tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


class FakeHub:
    """Stands for huggingface_hub.HfApi: remembers what it was sent, or fails in the call that `fails` names."""

    def __init__(self) -> None:
        self.sent: dict[str, list[str]] = {}
        self.fails: dict[str, Exception] = {}

    def __call__(self) -> "FakeHub":
        return self

    def whoami(self) -> None:
        self._fail("whoami")

    def create_repo(self, name: str, **settings: Any) -> str:
        self._fail("create_repo")
        return f"https://huggingface.co/{name}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        self._fail("upload_folder")
        self.sent[repo_id] = sorted(file.name for file in folder_path.iterdir())

    def _fail(self, call: str) -> None:
        if call in self.fails:
            raise self.fails[call]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub = FakeHub()
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    return hub


def refusal(status: int) -> HfHubHTTPError:
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return HfHubHTTPError(f"{status}\nof the Hub", response=response)


def test_push_sends_the_folder(home: Path, tmp_path: Path, hub: FakeHub) -> None:
    made = export_to_hub(str(home / "run"), out=tmp_path / "folder", push="owner/pictures")
    assert made.url == "https://huggingface.co/owner/pictures"
    assert hub.sent == {"owner/pictures": ["README.md", "config.json", "model.safetensors"]}
    card = (tmp_path / "folder/README.md").read_text()
    assert '"hf-hub:owner/pictures"' in card and 'snapshot_download("owner/pictures")' in card and FOLDER not in card


@pytest.mark.parametrize(
    ("call", "error", "kind", "message", "is_written"),
    [
        ("whoami", ConnectionError("no route"), WorkError, "cannot be reached (no route); nothing was written", False),
        ("whoami", refusal(401), InputError, "does not let this token do it (401); log in", False),
        ("create_repo", refusal(403), InputError, "folder is whole; send it with `hf upload owner/pictures", True),
        ("upload_folder", refusal(500), WorkError, "the Hub refused (500 of the Hub)", True),
        ("upload_folder", TimeoutError(), WorkError, "(TimeoutError); ", True),
    ],
)
def test_a_push_that_fails_is_one_line(
    home: Path,
    tmp_path: Path,
    hub: FakeHub,
    call: str,
    error: Exception,
    kind: type[Exception],
    message: str,
    is_written: bool,
) -> None:
    hub.fails[call] = error
    with pytest.raises(kind) as refused:
        export_to_hub(str(home / "run"), out=tmp_path / "folder", push="owner/pictures")
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert (tmp_path / "folder").exists() == is_written and not hub.sent
