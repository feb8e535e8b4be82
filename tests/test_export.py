"""Promise T6: what is exported predicts what ci2p predicts, and says of itself what it takes and gives."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ci2p_cache import codecs
from ci2p_cache.errors import InputError, WorkError
from pipeline.export import run as export_run
from pipeline.export.graph import Stored
from pipeline.export.record import ExportRecord
from pipeline.models import ci2p_vit
from tests.conftest import CLASSES, call_ci2p, encode_folder

WITHOUT_CI2P = """
import json, sys, torch
assert not [name for name in sys.modules if name.startswith(("pipeline", "ci2p"))]
extra = {"ci2p.json": ""}
program = torch.export.load(sys.argv[1], extra_files=extra).module()
shares = program(torch.zeros(3, 3, 64, 64, dtype=torch.uint8))
print(json.dumps([json.loads(extra["ci2p.json"])["classes"], list(shares.shape), shares.sum(1).tolist()]))
"""


@pytest.fixture(scope="module", autouse=True)
def two_blocks() -> Iterator[None]:
    """A ViT of two blocks in place of twelve: nothing here depends on their number but the seconds."""
    settings = ci2p_vit.ci2p_vit_settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ci2p_vit, "ci2p_vit_settings", lambda *shape: settings(*shape) | {"depth": 2})
        yield


@pytest.fixture(scope="module")
def home(two_blocks: None, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a window of 2 x 2 cells of 4 x 4, from a cache with a step of its own."""
    home = tmp_path_factory.mktemp("home")
    encode_folder(image_folder, home / "cache", image_size=64, step=0.5)
    shutil.copytree(image_folder, home / "images")
    trained = call_ci2p(
        *("train", "--shards", "cache", "--model", "ci2p_vit_tiny", "--epochs", "1", "--batch-size", "8"),
        *("--set", "window=2", "--device", "cpu", "--out", "run"),
        cwd=home,
    )
    assert trained.returncode == 0, trained.stderr
    return home


@pytest.fixture(scope="module")
def exported(home: Path) -> Path:
    """`home` with its run exported as ONNX, in float32 and in int8."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    made = call_ci2p(
        *("export", "run", "--to", "onnx", "--int8", "--images", "images", "--json", "export.json"), cwd=home
    )
    assert made.returncode == 0, made.stderr
    return home


@pytest.mark.parametrize(("store", "step"), [("int", 1.0), ("int", 0.3), ("rans", 0.5), ("float16", None)])
def test_latents_are_rounded_as_the_store_rounds_them(store: codecs.Store, step: float | None) -> None:
    latents = (np.random.default_rng(0).normal(0, 20, (2, 192, 4, 4))).astype(np.float32)
    latents[0, 0, 0] = (0.5, 1.5, -0.5, -2.5)  # halves, which go to the even neighbour
    kept = codecs.dequantise(codecs.quantise(latents, store, step), store, step)
    assert np.array_equal(Stored(store, step)(torch.from_numpy(latents)).numpy(), kept)


def test_onnx_gives_what_eval_measured(exported: Path) -> None:
    for file in json.loads((exported / "export.json").read_text())[:2]:
        assert file["agreement"]["largest"] < 1e-3 and "9 of 9 of the 9 images" in file["agreement"]["measured_on"]
    scores = []
    for checkpoint, source in (
        ("run", ("--images", "images")),
        ("run/model.onnx", ("--images", "images")),
        ("run/model-latents.onnx", ("--images", "images")),
        ("run/model-latents.onnx", ("--shards", "cache")),
    ):
        done = call_ci2p("eval", "--checkpoint", checkpoint, *source, "--workers", "0", "--json", "-", cwd=exported)
        assert done.returncode == 0, done.stderr
        scores.append(json.loads(done.stdout)["confusion"])
    assert all(each == scores[0] for each in scores)


def test_onnx_says_what_it_takes_and_gives(exported: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exported / "run/model.onnx", providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape) == ("images", "tensor(uint8)", ["batch", 3, 64, 64])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert json.loads(metadata["preprocessing"])["short_edge"] == 73
    assert len(metadata["weights_sha256"]) == 64 and metadata["ci2p_version"]
    assert str(exported) not in json.dumps(metadata) and ExportRecord.from_metadata(metadata).data.path == "cache"
    for batch in (1, 5):
        (shares,) = session.run(None, {"images": np.zeros((batch, 3, 64, 64), np.uint8)})
        assert shares.shape == (batch, 3) and np.allclose(shares.sum(1), 1)


def test_int8_costs_what_the_file_says(exported: Path) -> None:
    import onnx

    in_float32, in_int8 = (
        onnx.load(exported / f"run/model-latents{kind}.onnx", load_external_data=False) for kind in ("", "-int8")
    )
    weights = [onnx.numpy_helper.to_array(each) for each in in_int8.graph.initializer]
    in_bytes = sum(each.size for each in weights if each.dtype == np.int8 and each.ndim == 2)
    matrices = [node.input[1] for node in in_float32.graph.node if node.op_type in ("MatMul", "Gemm")]
    sizes = {each.name: int(np.prod(each.dims)) for each in in_float32.graph.initializer}
    assert in_bytes == sum(sizes.get(name, 0) for name in matrices) > 100_000
    for name, source in (("model-int8", ("--images", "images")), ("model-latents-int8", ("--shards", "cache"))):
        path = f"run/{name}.onnx"
        done = call_ci2p("eval", "--checkpoint", path, *source, "--workers", "0", "--json", "-", cwd=exported)
        assert done.returncode == 0, done.stderr
        (cost,) = [prop.value for prop in onnx.load(exported / path).metadata_props if prop.key == "int8"]
        measured = json.loads(done.stdout)["top1"]
        assert (
            json.loads(cost)["top1_int8"] == pytest.approx(measured) and json.loads(cost)["measured_on"] == "cache/val"
        )
        assert json.loads(cost)["num_images"] == 9


def test_predict_takes_the_file(exported: Path) -> None:
    image = next((exported / "images/val").rglob("*.png"))
    own, theirs = (
        json.loads(call_ci2p("predict", image, "--checkpoint", name, "--json", "-", cwd=exported).stdout)[str(image)]
        for name in ("run", "run/model.onnx")
    )
    assert theirs == pytest.approx(own, abs=1e-3)


def test_a_file_of_floats_and_without_images(exported: Path) -> None:
    made = call_ci2p("export", "run", "--to", "onnx", "--input", "float", "--out", "float.onnx", cwd=exported)
    assert made.returncode == 0 and "latents of cache/val, decoded to pictures" in made.stdout
    done = call_ci2p("eval", "--checkpoint", "float.onnx", "--images", "images", "--shards", "cache", cwd=exported)
    assert done.returncode == 0, done.stderr
    unknown = call_ci2p("eval", "--checkpoint", "float.onnx", "--images", "images", "--split", "none", cwd=exported)
    assert unknown.returncode == 2 and "Traceback" not in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "--checkpoint", "run/model.onnx"), "reads images; give --images DIR"),
        (("eval", "--checkpoint", "none.onnx", "--images", "images"), "none.onnx does not exist"),
        (("eval", "--checkpoint", "broken.onnx", "--images", "images"), "broken.onnx cannot be read as ONNX"),
        (("eval", "--checkpoint", "empty.onnx", "--images", "images"), "empty.onnx"),
        (("eval", "--checkpoint", "foreign.onnx", "--images", "images"), "foreign.onnx lacks the metadata"),
        (("predict", "x.png", "--checkpoint", "run/model.onnx", "--weights", "zoo"), "has its encoder inside"),
        (("export", "run", "--to", "onnx", "--out", "model.pb"), "ends in .onnx"),
        (("export", "nowhere", "--to", "onnx"), "nowhere does not exist"),
        (("export", "run", "--to", "torch", "--int8"), "--int8 says nothing to --to torch"),
        (("export", "run", "--to", "onnx", "--shards", "cache"), "says nothing without --int8"),
        (("export", "run", "--to", "onnx", "--int8", "--shards", "none"), "none"),
    ],
)
def test_wrong_input_is_refused_in_one_line(exported: Path, arguments: tuple[str, ...], message: str) -> None:
    import onnx

    (exported / "broken.onnx").write_bytes((exported / "run/model.onnx").read_bytes()[:1000])
    (exported / "empty.onnx").write_bytes(b"")
    model = onnx.load(exported / "run/model.onnx")
    del model.metadata_props[:]
    onnx.save(model, exported / "foreign.onnx")
    refused = call_ci2p(*arguments, cwd=exported)
    errors = refused.stderr.strip().splitlines()
    assert refused.returncode == 2 and errors[-1].startswith("Error:") and message in errors[-1]


def test_t6_a_file_that_predicts_something_else_is_not_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(Stored, "forward", lambda self, latents_BCHW: latents_BCHW * 3)
    with pytest.raises(WorkError, match="is refused, and nothing was written"):
        export_run.export("run", "torch", out=Path("wrong.pt2"))
    assert not Path("wrong.pt2").exists()


def test_torch_loads_its_program_without_ci2p(home: Path, tmp_path: Path) -> None:
    made = call_ci2p("export", "run", "--to", "torch", "--out", tmp_path / "model.pt2", cwd=home)
    assert made.returncode == 0, made.stderr
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_CI2P, "model.pt2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    classes, shape, sums = json.loads(loaded.stdout)
    assert (classes, shape, sums) == (list(CLASSES), [3, 3], pytest.approx([1, 1, 1]))


def test_a_missing_package_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.export.packages.find_spec", lambda name: None)
    with pytest.raises(InputError, match="not installed: onnx, onnxscript, onnxruntime; pip install onnx"):
        export_run.export(str(home / "run"), "onnx")
