"""The front door in Python: what `import ci2p` offers, frozen; the same results and the same lines as the command."""

import asyncio
import functools
import http.server
import inspect
import json
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import ci2p
from ci2p_cache.loader import BatchLoader
from ci2p_cache.order import view_choice
from tests.conftest import CLASSES, encode_folder, files_of, run_python, upload_cache

GOLDEN = Path(__file__).parent / "golden_api.json"  # renewed by CI2P_RENEW_GOLDEN=1
SMALL: dict[str, Any] = {"image_size": 32, "device": "cpu", "workers": 0, "shard_size": 4}
TINY: dict[str, Any] = {"model": "ci2p_vit_tiny", "batch_size": 8, "device": "cpu"}


def signatures() -> dict[str, str]:
    """Public name -> its signature; of a class also those of its public methods."""
    found = {}
    for name in ci2p.__all__:
        thing = getattr(ci2p, name)
        if isinstance(thing, type) and issubclass(thing, Exception):
            found[name] = thing.__bases__[0].__name__
            continue
        found[name] = str(inspect.signature(thing))
        if isinstance(thing, type):
            for member, value in vars(thing).items():
                is_kept = not member.startswith("_") or member in ("__len__", "__getitem__", "__iter__", "__fspath__")
                if is_kept and callable(value):
                    found[f"{name}.{member}"] = str(inspect.signature(value))
                elif is_kept and isinstance(value, property | functools.cached_property):
                    found[f"{name}.{member}"] = "property"
    return found


def test_the_signatures_are_frozen() -> None:
    """A change here is a change for every program that imports ci2p."""
    if os.environ.get("CI2P_RENEW_GOLDEN"):
        GOLDEN.write_text(json.dumps(signatures(), indent=1) + "\n")
    assert signatures() == json.loads(GOLDEN.read_text())


def test_every_public_name_is_documented_and_knows_its_version() -> None:
    for name in ci2p.__all__:
        assert getattr(ci2p, name).__doc__, name
    assert ci2p.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ci2p.nothing  # noqa: B018


def test_importing_it_is_quick_because_it_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "zarr", "timm", "pydantic", "rich", "click")
    finished = run_python("-c", f"import sys, ci2p; print([name for name in {heavy} if name in sys.modules])")
    assert finished.stdout.strip() == "[]", finished.stderr


# ------------------------------------------------------------------------------------------------------- names


STRANGER = "raise SystemExit('a file of the user was run')\n"


@pytest.fixture
def strange_folder(tmp_path: Path) -> Path:
    for name in ("pipeline.py", "cli.py", "ci2p_cache.py"):
        (tmp_path / name).write_text(STRANGER)
    return tmp_path


def test_the_command_runs_no_file_of_the_user_s(strange_folder: Path) -> None:
    for arguments in (("--help",), ("complexity", "--model", "ci2p_vit_tiny"), ("inspect", "nowhere")):
        finished = run_python("-m", "ci2p", *arguments, cwd=strange_folder)
        assert "a file of the user" not in finished.stdout + finished.stderr
    assert finished.stderr.splitlines()[-1] == "Error: the cache nowhere does not exist" and finished.returncode == 2


def test_a_script_beside_such_files_gets_ci2p_s_own_and_is_told(strange_folder: Path, zarr_cache: Path) -> None:
    (strange_folder / "script.py").write_text(
        f"import ci2p\ncache = ci2p.open({str(zarr_cache)!r})\nprint(len(cache), cache[0][0].shape)\n"
    )
    finished = run_python("script.py", cwd=strange_folder)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["21", "(192,", "2,", "2)"]
    assert f"{strange_folder / 'pipeline.py'} is hidden by ci2p's own package 'pipeline'" in finished.stderr


def test_spawned_workers_of_such_a_script_run_no_file_of_the_user_s(strange_folder: Path, zarr_cache: Path) -> None:
    (strange_folder / "script.py").write_text(
        "import ci2p\nif __name__ == '__main__':\n    from torch.utils.data import DataLoader\n"
        f"    dataset = ci2p.open({str(zarr_cache)!r}).dataset()\n"
        "    batches = DataLoader(dataset, batch_size=8, num_workers=1, multiprocessing_context='spawn')\n"
        "    print(sum(len(labels) for _, labels in batches))\n"
    )
    finished = run_python("script.py", cwd=strange_folder)
    assert finished.stdout.strip() == "21", finished.stderr
    assert finished.stderr.count("is hidden by") <= 2  # said by the script, once a name, and by no worker


def test_a_module_that_is_in_the_way_already_is_named(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text("MINE = True\n")
    (tmp_path / "script.py").write_text("import pipeline\nimport ci2p\n")
    finished = run_python("script.py", cwd=tmp_path)
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ci2p has a package 'pipeline' of its own, and ") and "rename" in last


# ------------------------------------------------------------------------------------------------------- caches


def test_a_cache_is_a_sequence_of_latents_and_labels(cache: Path) -> None:
    opened = ci2p.open(cache)
    assert (len(opened), opened.classes, opened.split) == (21, list(CLASSES), "train")
    latent, label = opened[0]
    assert latent.shape == (192, 2, 2) and latent.dtype == np.float32 and label == opened.labels[0]
    assert [label for _, label in opened] == opened.labels.tolist()
    assert np.array_equal(opened[-1][0], opened.latents()[20])
    assert sorted(opened.keys)[:2] == ["blue/000", "blue/001"] and len(opened.keys) == 21
    assert [opened.classes[label] for label in opened.labels] == [key.partition("/")[0] for key in opened.keys]
    mirrored = opened.latents([3, 1], view="mirror")
    assert mirrored.shape == (2, 192, 2, 2) and not np.array_equal(mirrored, opened.latents([3, 1]))
    assert np.array_equal(mirrored, opened.latents(np.array([3, 1]), view=1))
    assert "21 images, 3 classes, latents [192, 2, 2], views plain, mirror" in repr(opened)
    assert len(pickle.loads(pickle.dumps(opened))) == 21


def test_a_latent_decodes_to_the_picture_it_was_made_of(image_folder: Path, tmp_path: Path) -> None:
    cache = ci2p.encode(image_folder, out=tmp_path / "cache", store="float16", short_edge=32, **SMALL)
    for view in ("plain", "mirror"):
        picture = cache.image(2, view)
        assert picture.mode == "RGB" and picture.size == (32, 32)
        with Image.open(image_folder / "train" / f"{cache.keys[2]}.png") as original:
            pixels = original.resize((32, 32), Image.Resampling.BICUBIC, box=(4, 0, 44, 40))
        if view == "mirror":
            pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert np.abs(np.asarray(picture, float) - np.asarray(pixels, float)).mean() < 12


def test_a_cache_in_a_bucket_reads_the_same(zarr_cache: Path) -> None:
    local, remote = ci2p.open(zarr_cache, "val"), ci2p.open(upload_cache(zarr_cache, "api"), "val")
    assert np.array_equal(local.latents(), remote.latents()) and list(local.keys) == list(remote.keys)
    assert remote.dataset("mirror")[4][1] == local.labels[4]


# ----------------------------------------------------------------------------------- torch's datasets and loaders


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_dataset_goes_through_worker_processes(start: str, zarr_cache: Path) -> None:
    cache = ci2p.open(zarr_cache)
    dataset = cache.dataset(seed=5)
    dataset[0]  # a reader that is open here must not be used there
    assert dataset.classes == list(CLASSES) and list(dataset.keys) == list(cache.keys)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=start, persistent_workers=True)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        latents, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
        views = view_choice(np.arange(21), 2, 5, epoch)
        expected = np.stack([cache.latents([i], int(view))[0] for i, view in enumerate(views)])
        assert np.array_equal(latents.numpy(), expected), f"epoch {epoch}"
        assert labels.tolist() == cache.labels.tolist() and labels.dtype == torch.int64


def test_a_dataset_shows_one_view_when_it_is_asked_to(zarr_cache: Path) -> None:
    cache = ci2p.open(zarr_cache)
    mirrored = cache.dataset("mirror")
    assert np.array_equal(np.stack([latent.numpy() for latent, _ in mirrored]), cache.latents(view="mirror"))
    assert np.array_equal(cache.dataset(0)[7][0].numpy(), cache[7][0])
    assert mirrored[np.int64(3)][1] == mirrored[torch.tensor(3)][1] == cache.labels[3]


def read_in_child(dataset: Any, queue: Any) -> None:
    queue.put(float(dataset[1][0].sum()))


def test_a_dataset_survives_a_fork(zarr_cache: Path) -> None:
    dataset = ci2p.open(zarr_cache).dataset("plain")
    here = float(dataset[1][0].sum())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(dataset, queue))
    child.start()
    assert queue.get(timeout=60) == here
    child.join()


def same(ours: Any, theirs: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_loader_is_the_one_that_trains(cache: Path) -> None:
    opened = ci2p.open(cache)
    loader = opened.loader(batch_size=4, seed=3)
    assert len(loader) == 5
    trained = BatchLoader(opened._cache, batch_size=4, seed=3)
    for epoch in (0, 1):
        expected = [(batch.latents, batch.labels) for batch in trained.epoch(epoch)]
        for batches in (list(loader.epoch(epoch)), list(opened.loader(4, seed=3).epoch(epoch))):
            assert len(batches) == 5 and all(map(same, batches, expected))
    # Iterated as it is, it goes on from epoch to epoch.
    fresh = opened.loader(4, seed=3)
    assert [len(list(fresh)) for _ in range(2)] == [5, 5] and fresh.state_dict()["epoch"] == 2
    assert same(next(iter(fresh)), next(loader.epoch(2)))
    assert same(next(iter(fresh)), next(loader.epoch(3)))  # epoch 2 was left in the middle
    whole = [labels for _, labels in opened.loader(8, shuffle=False)]
    assert torch.cat(whole).tolist() == opened.labels.tolist()


def test_a_loader_s_state_saved_at_every_step_goes_on_from_there(zarr_cache: Path) -> None:
    cache = ci2p.open(zarr_cache)
    everything, states = [], []
    loader = cache.loader(6, seed=1)
    for _ in range(2):
        for batch in loader:
            everything.append(batch)
            states.append(loader.state_dict())
    assert json.loads(json.dumps(states)) == states
    for done, state in enumerate(states[:-1], start=1):
        resumed = cache.loader(6, seed=1)
        resumed.load_state_dict(state)
        rest: list[Any] = []
        while len(rest) < len(everything) - done:
            rest += resumed
        assert len(rest) == len(everything) - done and all(map(same, rest, everything[done:]))
    # As people write their loops: by the number of the epoch.
    resumed = cache.loader(6, seed=1)
    resumed.load_state_dict(states[1])
    resumed.set_epoch(0)
    assert all(map(same, list(resumed), everything[2:3]))
    resumed.load_state_dict(states[1])
    assert len(list(resumed.epoch(1))) == 3
    with pytest.raises(ci2p.InputError, match="seed is 1 in the state and 2 here"):
        cache.loader(6, seed=2).load_state_dict(states[0])


class Forgetful:
    """Counts to `length`; its state forgets whether the last one was odd."""

    def __init__(self, length: int = 5, forget: bool = True):
        self.length, self.forget, self.at = length, forget, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while self.at < self.length:
            self.at += 1
            yield {"at": self.at, "value": (torch.tensor(float("nan")), np.arange(self.at))}

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at // 2 * 2 if self.forget else self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def test_a_loader_is_walked_and_restored_at_every_step(zarr_cache: Path) -> None:
    cache = ci2p.open(zarr_cache)
    assert ci2p.check_resume(lambda: cache.loader(4, seed=1, workers=1)) == 5
    assert ci2p.check_resume(lambda: Forgetful(forget=False)) == 5
    assert ci2p.check_resume(lambda: Forgetful(1)) == 1
    assert ci2p.check_resume(Forgetful, most_steps=1) == 1
    with pytest.raises(ci2p.WorkError, match="the state before item 1 does not go on as before: item 1 differs"):
        ci2p.check_resume(Forgetful)
    with pytest.raises(ci2p.InputError, match="list has no state_dict"):
        ci2p.check_resume(lambda: [1, 2])


# ------------------------------------------------------------------------------------- images from a program


def as_given(path: Path, kind: str) -> Any:
    """One image file as programs hand it over."""
    with Image.open(path) as image:
        array = np.array(image.convert("RGB"))
    return {
        "path": path,
        "str": str(path),
        "bytes": path.read_bytes(),
        "PIL": Image.open(path),
        "numpy": array,
        "uint8 tensor": torch.from_numpy(array).permute(2, 0, 1),
        "float tensor": torch.from_numpy(array).permute(2, 0, 1) / 255,
    }[kind]


KINDS = ("path", "str", "bytes", "PIL", "numpy", "uint8 tensor", "float tensor")


def given(folder: Path, split: str) -> Iterator[tuple[str, Any, str]]:
    for number, path in enumerate(sorted((folder / split).rglob("*.png"))):
        yield f"{path.parent.name}/{path.stem}", as_given(path, KINDS[number % len(KINDS)]), path.parent.name


def test_items_become_the_cache_that_their_folder_becomes(image_folder: Path, zarr_cache: Path, tmp_path: Path) -> None:
    for workers in (0, 1):
        made = ci2p.encode(
            items=given(image_folder, "train"),
            val_items=list(given(image_folder, "val")),
            out=tmp_path / f"cache{workers}",
            **(SMALL | {"workers": workers}),
        )
        for split in ("train", "val"):
            ours, theirs = ci2p.open(made.path, split), ci2p.open(zarr_cache, split)
            assert list(ours.keys) == list(theirs.keys) and ours.labels.tolist() == theirs.labels.tolist()
            assert np.array_equal(ours.latents(), theirs.latents()) and ours.classes == theirs.classes
        assert (made.split, made.spec.dataset) == ("train", "items")


def test_items_are_held_out_by_fraction_and_by_classes_of_one_s_own(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 40, 3), dtype=np.uint8)
    items = [(f"{number:02d}", picture, number % 2) for number, picture in enumerate(pixels)]
    train = ci2p.encode(items=iter(items), classes=["cat", "dog", "emu"], out=tmp_path / "a", val_fraction=0.2, **SMALL)
    val = ci2p.open(train.path, "val")
    assert train.classes == ["cat", "dog", "emu"] and (len(train), len(val)) == (16, 4)
    assert not set(train.keys) & set(val.keys) and val.spec.val_fraction == 0.2
    assert all(label == int(key) % 2 for key, label in zip(train.keys, train.labels, strict=True))
    before = files_of(tmp_path / "a")
    ci2p.encode(items=items, classes=["cat", "dog", "emu"], out=tmp_path / "a", val_fraction=0.2, **SMALL)
    assert files_of(tmp_path / "a") == before
    numbered = ci2p.encode(items=items, out=tmp_path / "b", splits=["train"], **SMALL)
    assert numbered.classes == ["0", "1"] and len(numbered) == 18


def test_an_exif_orientation_counts_however_the_image_comes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8))
    picture.save(tmp_path / "a.png", exif=exif)
    items = [
        ("file", tmp_path / "a.png", 0),
        ("pil", Image.open(tmp_path / "a.png"), 0),
        ("cmyk", picture.convert("CMYK"), 0),
    ]
    cache = ci2p.encode(items=items, val_items=items[:1], out=tmp_path / "cache", **SMALL)
    latents = {key: cache[number][0] for number, key in enumerate(cache.keys)}
    assert np.array_equal(latents["file"], latents["pil"]) and not np.array_equal(latents["file"], latents["cmyk"])


# --------------------------------------------------------------------------------------------- training, models


@pytest.fixture(scope="module")
def run(zarr_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> ci2p.Run:
    return ci2p.train(ci2p.open(zarr_cache), epochs=2, out=tmp_path_factory.mktemp("api") / "run", **TINY)


def weights_of(run: ci2p.Run) -> list[bytes]:
    state = torch.load(run.path / "last.ckpt", weights_only=True)["model"]
    return [value.numpy().tobytes() for value in state.values()]


def test_training_says_what_it_came_to(run: ci2p.Run, zarr_cache: Path) -> None:
    assert run.finished and run.epochs == 2 and run.params > 0
    assert [record["epoch"] for record in run.metrics] == [1, 2]
    assert run.best_top1 == max(record["val_top1"] for record in run.metrics)
    again = ci2p.train(str(zarr_cache), epochs=2, out=run, **TINY)
    assert again.finished and again.path == run.path and again.best_top1 == run.best_top1


def test_a_callback_ends_a_run_and_the_same_call_goes_on(run: ci2p.Run, zarr_cache: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def stop_after_one(metrics: dict[str, Any]) -> bool:
        seen.append(metrics["epoch"])
        return metrics["epoch"] == 1

    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    stopped = ci2p.train(zarr_cache, epochs=2, out=tmp_path / "run", callbacks=[stop_after_one], **TINY)
    assert not stopped.finished and stopped.epochs == 1
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's generator is the caller's
    finished = ci2p.train(zarr_cache, epochs=2, out=tmp_path / "run", callbacks=[stop_after_one], **TINY)
    assert finished.finished and seen == [1, 2]
    assert weights_of(finished) == weights_of(run)  # two calls here, one there


def test_an_interrupt_leaves_a_run_that_goes_on(run: ci2p.Run, zarr_cache: Path, tmp_path: Path) -> None:
    def interrupt(metrics: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ci2p.train(zarr_cache, epochs=2, out=tmp_path / "run", callbacks=[interrupt], **TINY)
    finished = ci2p.train(zarr_cache, epochs=2, out=tmp_path / "run", **TINY)
    assert weights_of(finished) == weights_of(run)


def test_an_interrupt_leaves_a_cache_that_goes_on(image_folder: Path, zarr_cache: Path, tmp_path: Path) -> None:
    def interrupted() -> Iterator[tuple[str, Any, str]]:
        yield from list(given(image_folder, "train"))[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ci2p.encode(items=interrupted(), out=tmp_path / "cache", **SMALL)
    assert not (tmp_path / "cache").exists()
    cache = ci2p.encode(image_folder, out=tmp_path / "cache", **SMALL)
    assert np.array_equal(cache.latents(), ci2p.open(zarr_cache).latents())


def test_a_model_takes_images_in_every_form(run: ci2p.Run, image_folder: Path) -> None:
    model = ci2p.load(run, device="cpu")
    path = image_folder / "val" / "red" / "001.png"
    everything = model.predict(path, top=None)
    assert {name for name, _ in everything} == set(CLASSES) == set(model.classes)
    assert sum(share for _, share in everything) == pytest.approx(1, abs=1e-5)
    assert [share for _, share in everything] == sorted((share for _, share in everything), reverse=True)
    for kind in KINDS:
        assert model.predict(as_given(path, kind), top=2) == everything[:2], kind
    several = model.predict([as_given(path, kind) for kind in KINDS], top=1, batch_size=3)
    assert [one[0][0] for one in several] == [everything[0][0]] * len(KINDS)
    folder = model.predict(image_folder / "val", top=1)
    assert len(folder) == 9 and folder["red/001.png"][0][0] == everything[0][0]
    stack = np.stack([as_given(path, "numpy")] * 2)
    assert len(model.predict(stack)) == len(model.predict(torch.from_numpy(stack).permute(0, 3, 1, 2))) == 2


def test_features_are_what_the_classifier_reads(run: ci2p.Run, image_folder: Path, zarr_cache: Path) -> None:
    model = ci2p.load(run.path, device="cpu")
    cache = ci2p.open(zarr_cache, "val")
    features = model.features(cache)
    assert features.shape == (9, 192) and features.dtype == np.float32
    logits = model.module.get_classifier()(torch.from_numpy(features))
    assert torch.allclose(logits, model.module(torch.from_numpy(cache.latents())), atol=1e-5)
    from_files = model.features([image_folder / "val" / f"{key}.png" for key in cache.keys])
    assert np.allclose(from_files, features, atol=1e-4)
    assert model.predict(cache, top=1) == [
        [(name, pytest.approx(share, abs=1e-4))]
        for ((name, share),) in model.predict([image_folder / "val" / f"{key}.png" for key in cache.keys], top=1)
    ]


@pytest.fixture
def server(image_folder: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(image_folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_model_takes_addresses(run: ci2p.Run, image_folder: Path, server: str) -> None:
    model = ci2p.load(run, device="cpu")
    assert model.predict(f"{server}/val/red/001.png") == model.predict(image_folder / "val" / "red" / "001.png")
    for url, kind, message in (
        (f"{server}/none.png", ci2p.WorkError, "none.png cannot be read (the server answered 404"),
        ("http://127.0.0.1:9/x.png", ci2p.WorkError, "cannot be read"),
        ("s9://bucket/x.png", ci2p.InputError, "cannot be opened"),
    ):
        with pytest.raises(kind) as raised:
            model.predict(url)
        assert message in str(raised.value)


def test_evaluation_gives_scores_and_predictions_by_key(run: ci2p.Run, image_folder: Path) -> None:
    on_cache = ci2p.evaluate(run, device="cpu")
    on_images = ci2p.evaluate(run, images=image_folder, device="cpu", workers=0, batch_size=4)
    assert on_cache.top1 == run.best_top1 and on_cache.confusion == on_images.confusion
    assert on_cache.predictions == on_images.predictions and len(on_cache.predictions) == on_cache.num_images == 9
    assert set(on_cache.keys) == {f"{name}/{number:03d}" for name in CLASSES for number in range(3)}
    assert [on_cache.classes[label] for label in on_cache.labels] == [key.partition("/")[0] for key in on_cache.keys]
    assert on_cache.probabilities.shape == (9, 3) and on_cache.failures == {}
    right = np.mean(on_cache.probabilities.argmax(1) == on_cache.labels)
    assert right == pytest.approx(on_cache.top1)


def test_models_are_anyone_s_to_build() -> None:
    model = ci2p.create_model("ci2p_vit_tiny", 7, image_size=64)
    assert model(torch.zeros(2, 192, 4, 4)).shape == (2, 7)
    names = ci2p.register_timm_models()
    import timm

    assert "ci2p_vit_tiny" in names and timm.create_model("ci2p_vit_tiny", num_classes=3).num_classes == 3


def test_hugging_face_gets_features(zarr_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    cache = ci2p.open(zarr_cache, "val")
    table = ci2p.to_hf(cache)
    assert table.features["label"].names == list(CLASSES) and table["key"][:] == list(cache.keys)
    assert np.array_equal(table.with_format("numpy")["latent"][:], cache.latents())
    streamed = list(ci2p.to_hf(zarr_cache, "val", view="mirror", streaming=True))
    assert np.array_equal(np.array([row["latent"] for row in streamed], np.float32), cache.latents(view="mirror"))


# -------------------------------------------------------------------------------------------------- wrong input


def picture() -> Any:
    return np.zeros((8, 8, 3), np.uint8)


WRONG: list[tuple[Callable[[ci2p.Cache], object], str]] = [
    (lambda cache: ci2p.encode(), "--dataset folder needs --data-dir"),
    (lambda cache: ci2p.encode("nowhere"), "--data-dir nowhere: there is no such folder"),
    (lambda cache: ci2p.encode("x", image_size="big"), "ci2p.encode(image_size='big'): it is of type str; give an"),
    (lambda cache: ci2p.encode("x", image_size=True), "ci2p.encode(image_size=True): it is of type bool"),
    (lambda cache: ci2p.encode("x", image_size=250), "--image-size 250: "),
    (lambda cache: ci2p.encode("x", batch_size=0), "ci2p.encode(batch_size=0): give an integer from 1 on"),
    (lambda cache: ci2p.encode("x", format="zip"), "ci2p.encode(format='zip'): give one of 'zarr', 'webdataset'"),
    (lambda cache: ci2p.encode("x", step=float("nan")), "ci2p.encode(step=nan)"),
    (lambda cache: ci2p.encode("x", splits=["train", 3]), "splits=['train', 3]): its number 1, 3, is of type int"),
    (lambda cache: ci2p.encode("x", splits="train"), "ci2p.encode(splits='train'): it is of type str; give a list"),
    (lambda cache: ci2p.encode("x", crop_scale=0.3), "ci2p.encode(crop_scale=0.3): it is of type float; give 2"),
    (lambda cache: ci2p.encode(b"x"), "ci2p.encode(data_dir=b'x'): it is of type bytes; give a string or a path"),
    (lambda cache: ci2p.encode(items=5), "ci2p.encode(items=5): it is of type int; give something to go through"),
    (lambda cache: ci2p.encode("x", items=[]), "items, or data_dir and dataset: give one of the two"),
    (lambda cache: ci2p.encode(items=[]), "items: there is no item"),
    (lambda cache: ci2p.encode("x", classes=["a"]), "val_items and classes go with items"),
    (lambda cache: ci2p.encode(items=["ab"]), "items[0]: 'ab' is of type str; items are (key, image, label)"),
    (lambda cache: ci2p.encode(items=[(1, picture(), 0)]), "items[0]: the key 1 is of type int"),
    (lambda cache: ci2p.encode(items=[("a", picture(), None)]), "items[0]: the label None is of type NoneType"),
    (lambda cache: ci2p.encode(items=[("a", picture(), -1)]), "items[0]: the label -1"),
    (lambda cache: ci2p.encode(items=[("a", picture(), True)]), "items[0]: the label True is of type bool"),
    (lambda cache: ci2p.encode(items=[("a", picture(), 2**70)]), "items[0] has label 1180591620717411303424"),
    (lambda cache: ci2p.encode(items=[("a", 3.5, 0)]), "items[0]: 3.5 is of type float; give a path, bytes"),
    (lambda cache: ci2p.encode(items=[("a", picture() / 1.0, 0)]), "items[0]: a numpy array of float64; give uint8"),
    (lambda cache: ci2p.encode(items=[("a", torch.ones(3, 4, 4) * 2, 0)]), "items[0]: a tensor of floats from 2 to 2"),
    (lambda cache: ci2p.encode(items=[("a", torch.ones(5, 4, 3), 0)]), "items[0]: a tensor of shape [5, 4, 3]"),
    (lambda cache: ci2p.encode(items=[("a", picture(), 0), ("a", picture(), 0)]), "the key a is that of items[0]"),
    (lambda cache: ci2p.encode(items=[("a", picture(), 0), ("b", picture(), "b")]), "the label 'b' is of type str"),
    (lambda cache: ci2p.encode(items=[("a", picture(), 2)], classes=["x", "y"]), "items[0]: the label 2 is none of"),
    (lambda cache: ci2p.open(3), "ci2p.open(path=3): it is of type int; give a string or a path"),
    (lambda cache: ci2p.open("nowhere"), "--shards nowhere does not exist; make it with `ci2p encode"),
    (lambda cache: ci2p.encode("imgs", out="nonsense://c"), "nonsense://c cannot be opened: Protocol not known"),
    (lambda cache: ci2p.train(cache, out="s3://bucket/r"), "ci2p.train(out=...): s3://bucket/r is a URL"),
    (lambda cache: ci2p.open(cache.path, "tset"), "holds no tset/manifest.json"),
    (lambda cache: cache[21], "sample 21: there are 21, 0 to 20"),
    (lambda cache: cache["a"], "sample 'a' is of type str; give an integer"),
    (lambda cache: cache[1.0], "sample 1.0 is of type float; give an integer"),
    (lambda cache: cache[0:2], "sample slice(0, 2, None) is of type slice; give an integer"),
    (lambda cache: cache.latents([2**80]), "sample 1208925819614629174706176: there are 21"),
    (lambda cache: cache.image(0, "crop7"), "view='crop7': "),
    (lambda cache: cache.dataset(2), "view=2: "),
    (lambda cache: cache.dataset().set_epoch(-1), "set_epoch(-1): give the number of an epoch"),
    (lambda cache: cache.loader(0), "ci2p.Cache.loader(batch_size=0): give an integer from 1 on"),
    (lambda cache: cache.loader(3, world_size=2), "--batch-size 3 does not divide by 2 processes"),
    (lambda cache: cache.loader(4, rank=2, world_size=2), "ci2p.Cache.loader(rank=2): world_size is 2"),
    (lambda cache: cache.loader(4, device="cuda:9"), "--device cuda:9"),
    (lambda cache: cache.loader(4).epoch(-1), "ci2p.Loader.set_epoch(epoch=-1): give an integer from 0 on"),
    (lambda cache: ci2p.create_model("ci2p_vit_tinny", 3), "did you mean 'ci2p_vit_tiny'?"),
    (lambda cache: ci2p.create_model("ci2p_vit_tiny", 3, image_size=100), "ci2p.create_model(image_size=100)"),
    (lambda cache: ci2p.train("nowhere"), "--shards nowhere does not exist"),
    (lambda cache: ci2p.train(cache, epoch=3), "unknown key 'epoch' given for recipe quick; did you mean 'epochs'?"),
    (lambda cache: ci2p.train(cache, lr=-1), "lr = -1"),
    (lambda cache: ci2p.train(cache, recipe="quik"), "did you mean 'quick'?"),
    (lambda cache: ci2p.train(cache, callbacks=[3]), "ci2p.train(callbacks=[3]): its number 0, 3, is of type int"),
    (lambda cache: ci2p.train(cache, max_minutes=0), "ci2p.train(max_minutes=0)"),
    (lambda cache: ci2p.train(cache, max_minutes=float("nan")), "ci2p.train(max_minutes=nan)"),
    (lambda cache: ci2p.load("nowhere"), "nowhere does not exist; train it with `ci2p train`"),
    (lambda cache: ci2p.load(cache), "ci2p.load(run=ci2p.Cache("),
    (lambda cache: ci2p.evaluate("nowhere"), "nowhere does not exist"),
    (lambda cache: ci2p.to_hf(cache, view="random"), "a table holds one view of each image"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_input_is_refused_in_one_line(
    call: Callable[[ci2p.Cache], object],
    message: str,
    zarr_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ci2p.InputError) as raised:
        call(ci2p.open(zarr_cache))
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_wrong_images_are_refused_by_name(run: ci2p.Run, image_folder: Path, tmp_path: Path) -> None:
    model = ci2p.load(run, device="cpu")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    for images, message in (
        (3, "images=3: it is of type int; give a path, a URL, a folder, bytes"),
        ("none.png", "none.png: No such file or directory"),
        (tmp_path / "empty", "there is no image file in it"),
        (tmp_path / "text.png", "text.png: "),
        ([image_folder / "val/red/000.png", None], "images[1]: None is of type NoneType"),
        ([b"x"], "images[0]: "),
        (np.zeros((3, 8, 8), np.uint8), "a numpy array of shape [3, 8, 8] is no picture"),
        (torch.zeros(192, 2, 2), "a tensor of shape [192, 2, 2] is no picture"),
        ("", "'' is of type str"),
    ):
        with pytest.raises(ci2p.InputError) as raised:
            model.predict(images)
        assert message in str(raised.value) and "\n" not in str(raised.value)


def test_what_the_system_refuses_is_a_work_error(image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ci2p.WorkError) as raised:
        ci2p.encode(image_folder, out=tmp_path / "file" / "cache", **SMALL)
    assert "Not a directory" in str(raised.value)


def test_a_damaged_shard_is_a_work_error(image_folder: Path, tmp_path: Path) -> None:
    cache = encode_folder(image_folder, tmp_path / "cache")
    shard = next((cache / "train" / "latents.zarr").rglob("c/0/*/*/*/*"))
    shard.write_bytes(b"")
    with pytest.raises(ci2p.WorkError, match="has 0 bytes instead of"):
        ci2p.open(cache)


def test_a_cache_is_made_where_an_event_loop_is_running(image_folder: Path, zarr_cache: Path, tmp_path: Path) -> None:
    """As in a notebook's cell."""

    async def cell() -> ci2p.Cache:
        return ci2p.encode(image_folder, out=tmp_path / "cache", **SMALL)

    assert np.array_equal(asyncio.run(cell()).latents(), ci2p.open(zarr_cache).latents())
