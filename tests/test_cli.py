"""The door: what a user types, what they get, and what they read when they are wrong."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import (
    CLASSES,
    call_ci2p,
    encode_folder,
    files_of,
    run_ci2p,
    run_python,
    write_image_folder,
)
from tests.forked import Forked, run_command

SMALL = ("--image-size", "32", "--shard-size", "8", "--device", "cpu", "--workers", "1")


def refused(finished: "subprocess.CompletedProcess[str]", status: int = 2) -> str:
    """The one line that a refused command prints."""
    assert finished.returncode == status, finished.stderr
    assert "Traceback" not in finished.stderr
    errors = [line for line in finished.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1 and finished.stderr.strip().endswith(errors[0])
    return errors[0]


def test_help_answers_quickly() -> None:
    """The contract's half second, with room for a busy machine: importing torch alone takes longer than this limit."""
    for command in ((), ("encode",)):
        best = float("inf")
        for _ in range(3):
            begin = time.monotonic()
            finished = run_python("-m", "ci2p", *command, "--help")
            best = min(best, time.monotonic() - begin)
        assert finished.returncode == 0 and "Usage:" in finished.stdout
        assert best < 1.0


@pytest.mark.parametrize(
    ("command", "option"), [("train", "--max-minutes"), ("fit-encoder", "--max-minutes"), ("encode", "--ray-gpus")]
)
def test_nan_is_no_number_of_any_range(command: str, option: str, tmp_path: Path) -> None:
    assert refused(call_ci2p(command, option, "nan", cwd=tmp_path)).startswith(
        f"Error: Invalid value for '{option}': 'nan' is no"
    )


def test_the_options_are_frozen() -> None:
    """The contract's options; a change here is a change for every user."""
    import cli

    options = {
        name: sorted(option for parameter in command.params for option in parameter.opts if option.startswith("--"))
        for name, command in cli.main.commands.items()
    }
    golden = json.loads((Path(__file__).parent / "golden_options.json").read_text())
    assert options == golden


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a user has encoded a folder of images and trained on it, all defaults but the sizes: each
    command by a new interpreter."""
    home = tmp_path_factory.mktemp("home")
    write_image_folder(home / "images", train=8, val=4)
    encoded = run_python(
        *("-m", "ci2p"),
        "encode",
        "--dataset",
        "folder",
        "--data-dir",
        "images",
        *SMALL,
        "--json",
        "encode.json",
        cwd=home,
    )
    assert encoded.returncode == 0, encoded.stderr
    trained = run_python(
        *("-m", "ci2p"),
        *("train", "--shards", "caches/images", "--model", "ci2p_vit_tiny", "--epochs", "3", "--batch-size", "8"),
        *("--set", "lr=1e-3", "--device", "cpu", "--json", "train.json"),
        cwd=home,
    )
    assert trained.returncode == 0, trained.stderr
    return home


def test_three_commands_lead_from_images_to_an_accuracy(journey: Path) -> None:
    encoded = json.loads((journey / "encode.json").read_text())
    assert (encoded["train"]["num_images"], encoded["train"]["num_views"]) == (24, 48)
    assert encoded["val"]["num_images"] == 12 and encoded["val"]["num_failed"] == 0
    assert encoded["train"]["out"] == "caches/images"
    trained = json.loads((journey / "train.json").read_text())
    assert trained["epochs"] == 3 and trained["run"] == "runs/ci2p_vit_tiny-images-0"
    lines = [json.loads(line) for line in (journey / trained["run"] / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert max(line["val_top1"] for line in lines) == pytest.approx(trained["best_top1"])

    evaluated = call_ci2p("eval", "--device", "cpu", "--json", "-", cwd=journey)
    assert evaluated.returncode == 0, evaluated.stderr
    scores = json.loads(evaluated.stdout)
    assert scores["top1"] == pytest.approx(trained["best_top1"], abs=1e-6)
    assert scores["num_images"] == sum(map(sum, scores["confusion"])) == 12
    assert set(scores["per_class"]) == set(CLASSES)
    assert scores["top1"] == pytest.approx(sum(scores["confusion"][k][k] for k in range(3)) / 12)


def test_raw_images_and_the_cache_give_the_same_scores(journey: Path) -> None:
    for flags in ((), ("--tta",)):
        on = [
            json.loads(call_ci2p("eval", "--device", "cpu", "--json", "-", *flags, *source, cwd=journey).stdout)
            for source in ((), ("--images", "images", "--workers", "0"), ("--images", "images/val"))
        ]
        assert on[0]["confusion"] == on[1]["confusion"] == on[2]["confusion"]
        assert on[0]["ece"] == pytest.approx(on[1]["ece"], abs=1e-5)


def test_predict_names_classes_with_probabilities(journey: Path) -> None:
    image = journey / "images" / "val" / "red" / "000.png"
    finished = call_ci2p("predict", image, "--device", "cpu", "--json", "-", cwd=journey)
    shares = json.loads(finished.stdout)[str(image)]
    assert set(shares) == set(CLASSES) and sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert "%" in finished.stderr


def test_the_same_commands_again_change_nothing_and_say_so(journey: Path) -> None:
    before = files_of(journey)
    again = call_ci2p("encode", "--dataset", "folder", "--data-dir", "images", *SMALL, cwd=journey)
    assert again.returncode == 0 and "nothing left to do" in again.stdout
    trained = call_ci2p(
        *("train", "--shards", "caches/images", "--model", "ci2p_vit_tiny", "--epochs", "3", "--batch-size", "8"),
        *("--set", "lr=1e-3", "--device", "cpu"),
        cwd=journey,
    )
    assert trained.returncode == 0 and "is finished" in trained.stderr
    after = files_of(journey)
    assert {name for name in before if before[name] != after.get(name)} <= {"runs/ci2p_vit_tiny-images-0/config.json"}


def test_inspect_and_verify(journey: Path, tmp_path: Path) -> None:
    inspected = call_ci2p("inspect", "caches/images", "--json", "inspect.json", cwd=journey)
    assert inspected.returncode == 0 and "24 images, 48 views, 0 failed" in inspected.stdout
    summary = json.loads((journey / "inspect.json").read_text())
    assert summary["train"]["classes"] == {"blue": 8, "green": 8, "red": 8}
    assert call_ci2p("verify", "caches/images", cwd=journey).returncode == 0
    damaged = shutil.copytree(journey / "caches" / "images", tmp_path / "damaged")
    shard = damaged / "val" / "latents.zarr" / "latents" / "c" / "1" / "0" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    found = call_ci2p("verify", damaged, cwd=tmp_path)
    assert "val/latents.zarr/latents/c/1/0/0/0/0: changed" in found.stdout
    assert "has 1 problem, listed above" in refused(found, status=1)


@pytest.mark.parametrize("command", [("eval", "--device", "cpu"), ("inspect", "caches/images")])
def test_the_json_is_written_for_readers_that_go_away(journey: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    """As in `ci2p eval --json FILE | head -1`."""
    unread = Forked([*command, "--json", tmp_path / "figures.json"], work=command_unread, cwd=journey)
    _, errors = unread.communicate(timeout=60)
    assert unread.returncode == 141 and "Traceback" not in errors
    assert json.loads((tmp_path / "figures.json").read_text())


def command_unread(arguments: list[str]) -> None:
    """`ci2p ARGUMENTS` whose standard output nobody reads; tests/test_reader.py has it end as interpreters end."""
    reads, writes = os.pipe()
    os.close(reads)
    os.dup2(writes, 1)
    run_command(arguments)


def test_the_environment_sets_options(journey: Path) -> None:
    finished = run_ci2p("eval", cwd=journey, CI2P_EVAL_CHECKPOINT="runs/nothing")
    assert "runs/nothing does not exist" in refused(finished)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("encode", "--dataset", "folder", "--data-dir", "nowhere"), "--data-dir nowhere: there is no such folder"),
        (("encode", "--dataset", "folder", "--data-dir", "flat"), "images lie in it directly, without class folders"),
        (("encode", "--dataset", "folder", "--data-dir", "empty"), "there is no class folder in it"),
        (("encode", "--dataset", "foldre"), "'foldre' is not one of"),
        (("encode",), "Missing option '--dataset'"),
        (("encode", "--dataset", "folder", "--data-dir", "images", "--image-size", "250"), "--image-size 250"),
        (("encode", "--dataset", "folder", "--data-dir", "images", "--step", "0"), "--step is 0"),
        (("encode", "--dataset", "folder", "--data-dir", "images", "--weights", "no.pth"), "--weights no.pth: no such"),
        (("encode", "--dataset", "folder", "--data-dir", "images", "--device", "cuda:99"), "--device cuda:99"),
        (("encode", "--dataset", "folder", "--data-dir", "images", "--out", "caches/images"), "holds another cache"),
        (("train", "--shards", "nowhere"), "--shards nowhere does not exist; make it with `ci2p encode"),
        (("train", "--shards", "images"), "holds no train/manifest.json"),
        (("train", "--shards", "caches/images", "--model", "ci2p_vit_tinny"), "ci2p_vit_tinny"),
        (("train", "--shards", "caches/images", "--model", "resnet50"), "'resnet50' is no VisionTransformer"),
        (("train", "--shards", "caches/images", "--model", "vit_base"), "`ci2p baseline --model vit_base`"),
        (("train", "--shards", "caches/images", "--pretrained"), "ci2p_vit_base has no published weights"),
        (("train", "--shards", "caches/images", "--set", "weight_decy=0.1"), "did you mean 'weight_decay'?"),
        (("train", "--shards", "caches/images", "--recipe", "typo.toml"), "did you mean 'label_smoothing'?"),
        (("train", "--shards", "caches/images", "--lr", "-1"), "lr = -1.0"),
        (("train", "--shards", "caches/images", "--resident", "cuda", "--device", "cpu"), "--resident cuda needs"),
        (("eval", "--checkpoint", "runs/none"), "runs/none does not exist"),
        (("eval", "--images", "nowhere"), "--images nowhere: there is no such folder"),
        (("eval", "--images", "empty"), "there is no class folder in it"),
        (("predict", "images/none.png"), "images/none.png: cannot be read: No such file"),
        (("inspect", "empty"), "empty is no ci2p cache"),
        (("convert", "caches/images", "caches/images", "--format", "webdataset"), "is the cache to be converted"),
    ],
)
def test_wrong_input_is_refused_in_one_line(journey: Path, arguments: tuple[str, ...], message: str) -> None:
    (journey / "empty").mkdir(exist_ok=True)
    (journey / "flat").mkdir(exist_ok=True)
    shutil.copy(journey / "images" / "val" / "red" / "000.png", journey / "flat")
    (journey / "typo.toml").write_text("label_smothing = 0.1\n")
    before = files_of(journey / "caches") | files_of(journey / "runs")
    assert message in refused(call_ci2p(*arguments, cwd=journey))
    assert files_of(journey / "caches") | files_of(journey / "runs") == before


def test_a_checkpoint_of_quality_6_is_refused_by_name(journey: Path) -> None:
    state = {"g_a.0.weight": torch.zeros(192, 3, 5, 5), "g_a.6.weight": torch.zeros(320, 192, 5, 5)}
    torch.save({"state_dict": state}, journey / "q6.pth.tar")
    finished = call_ci2p(
        "encode", "--dataset", "folder", "--data-dir", "images", "--weights", "q6.pth.tar", "--out", "q6", cwd=journey
    )
    assert "N=192, M=320 (qualities 6 to 8)" in refused(finished)
    assert not (journey / "q6").exists()


def test_the_official_weights_offline_say_what_to_do(journey: Path) -> None:
    finished = run_ci2p(
        *("encode", "--dataset", "folder", "--data-dir", "images", "--weights", "zoo", "--out", "zoo"),
        cwd=journey,
        TORCH_HOME=str(journey / "torch"),
        https_proxy="http://127.0.0.1:9",
    )
    assert "use --weights bundled" in refused(finished)


def test_an_unfinished_cache_is_refused(journey: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(journey / "caches" / "images", tmp_path / "unfinished")
    (cache / "val" / "manifest.json").unlink()
    message = refused(call_ci2p("train", "--shards", cache, cwd=tmp_path))
    assert "not finished (2 shards done); run the same `ci2p encode` again" in message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_loses_nothing(journey: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=28k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        command = ("encode", "--dataset", "folder", "--data-dir", "images", "--out", disk / "cache", *SMALL)
        finished = call_ci2p(*command, cwd=journey)
        assert "the disk is full" in refused(finished, status=1)
        assert not list(disk.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert call_ci2p(*command, cwd=journey).returncode == 0
        assert files_of(disk / "cache") == files_of(journey / "caches" / "images")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "images", train=60, val=1)
    process = Forked(
        ["encode", "--dataset", "folder", "--data-dir", "images", *SMALL], cwd=tmp_path, start_new_session=True
    )
    while not list(tmp_path.glob("caches/images/train/shards/*.json")):
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in errors
    assert errors.strip().endswith("Error: interrupted; run the same command again to continue")
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (tmp_path / "caches" / "images" / "train" / "manifest.json").exists()


def test_eval_refuses_another_encoder(journey: Path, tmp_path: Path, image_folder: Path) -> None:
    other = encode_folder(image_folder, tmp_path / "cache", step=2.0)
    message = refused(call_ci2p("eval", "--shards", other, cwd=journey))
    assert "step is 2.0 there and 1.0 in training" in message


@pytest.mark.parametrize("image_size", [384, 512])
def test_larger_images_go_the_whole_way(image_size: int, tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", train=1, val=1)
    size = ("--image-size", str(image_size), "--device", "cpu", "--workers", "0")
    encode = ("encode", "--dataset", "folder", "--data-dir", str(images), "--out", "cache", *size)
    short = ("--epochs", "1", "--batch-size", "3", "--device", "cpu")
    for command in (
        encode,
        ("train", "--shards", "cache", "--model", "ci2p_vit_tiny", "--out", "run", *short),
        # Its positional embedding, made for 14 x 14 tokens, is resampled to the new grid.
        ("train", "--shards", "cache", "--model", "vit_tiny_patch16_224", "--out", "timm", *short),
        ("eval", "--checkpoint", "run", "--images", str(images), "--device", "cpu", "--workers", "0"),
    ):
        finished = call_ci2p(*command, cwd=tmp_path)
        assert finished.returncode == 0, finished.stderr
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    assert config["data"]["input_shape"] == [192, image_size // 16, image_size // 16]


def test_cache_and_run_may_be_given_plainly(journey: Path) -> None:
    run = "runs/ci2p_vit_tiny-images-0"
    same = call_ci2p(
        *("train", "caches/images", "--model", "ci2p_vit_tiny", "--epochs", "3", "--batch-size", "8"),
        *("--set", "lr=1e-3", "--device", "cpu"),
        cwd=journey,
    )
    assert same.returncode == 0 and "is finished" in same.stderr
    by_option, plainly = (
        json.loads(call_ci2p("eval", *given, "--device", "cpu", "--json", "-", cwd=journey).stdout)
        for given in (("--checkpoint", run), (run,))
    )
    assert by_option["confusion"] == plainly["confusion"]
    assert "say the same thing twice" in refused(call_ci2p("eval", run, "--checkpoint", run, cwd=journey))
    assert "train from what?" in refused(call_ci2p("train", cwd=journey))


def test_inspect_knows_a_run(journey: Path) -> None:
    run = journey / "runs" / "ci2p_vit_tiny-images-0"
    finished = call_ci2p("inspect", run, "--json", "-", cwd=journey)
    said = json.loads(finished.stdout)
    assert said["finished"] and said["epochs_done"] == 3 and said["classes"] == list(CLASSES)
    assert said["best_top1"] == max(json.loads(line)["val_top1"] for line in (run / "metrics.jsonl").open())
    assert "3 of 3 epochs, finished; best top-1" in finished.stderr and "lr 0.001" in finished.stderr
    assert "is a run" in refused(call_ci2p("inspect", run, "--images", "x.png", cwd=journey))


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("train", "caches/images", "--out", "gs://bucket/run"), "--out gs://bucket/run"),
        (("recipes", "copy", "quick", "memory://x"), "memory://x"),
        (("inspect", "caches/images", "--images", "s3://bucket/x.png"), "--images s3://bucket/x.png"),
    ],
)
def test_no_folder_is_called_by_a_scheme(journey: Path, command: tuple[str, ...], named: str) -> None:
    before = files_of(journey)
    line = refused(call_ci2p(*command, cwd=journey))
    assert f"{named} is a URL" in line and files_of(journey) == before
    assert not list(journey.glob("*:"))
