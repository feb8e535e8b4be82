"""ci2p from Python: the whole public API. Everything else in this distribution is private and may change.

    cache = ci2p.encode("imgs/", out="caches/mine")          stage one: images -> latents, once
    run = ci2p.train(cache, recipe="quick", epochs=5)        stage two: latents -> a model, as often as you like
    ci2p.load(run).predict("cat.jpg", top=3)                 the model

Every call raises `InputError` (what you gave is wrong) or `WorkError` (the work failed) with the line that the command
prints: which argument or file, its value, the way out. Ctrl-C ends a call at any time, and the same call again goes on.
Nothing is kept between calls. `python -m ci2p` is the command.

Shapes: C = 192 channels and H = W = image_size / 16 of a latent, N images, D width of a model, K classes.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, ParamSpec, TypeVar

if TYPE_CHECKING:
    import datasets
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from ci2p_cache.spec import CacheSpec
    from pipeline.api.view_dataset import ViewDataset
    from pipeline.export.hub_model import HubModel

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  (quick, and links are not followed)
_PACKAGES = ("ci2p_cache", "pipeline")


class _OwnPackages:
    """Finds ci2p's packages beside this file where sys.path has others of their names first."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if path is not None or name not in _PACKAGES:
            return None
        folder = f"{_HERE}/{name}"
        return importlib.util.spec_from_file_location(
            name, f"{folder}/__init__.py", submodule_search_locations=[folder]
        )


def _keep_our_names() -> None:
    """Sees to it that ci2p's packages are found, and no file of the user's that bears their name is ever run."""
    hidden = {}
    for name in _PACKAGES:
        ours = f"{_HERE}/{name}/__init__.py"
        if name in sys.modules:
            file = getattr(sys.modules[name], "__file__", None) or "a folder without __init__.py"
            if os.path.abspath(file) != ours:  # noqa: PTH100
                raise ImportError(f"ci2p has a package {name!r} of its own, and {file} is in its way; rename that")
            continue
        found = importlib.util.find_spec(name)
        if found is None or os.path.abspath(found.origin or "") != ours:  # noqa: PTH100
            hidden[name] = None if found is None else found.origin
    if hidden:
        sys.meta_path.insert(0, _OwnPackages)
        for name, origin in hidden.items():
            if origin is not None and __name__ != "__main__":
                _warn_of(name, origin)


def _warn_of(name: str, origin: str) -> None:
    import multiprocessing
    import warnings

    # A worker's parent has said it; a spawned one that runs its parent's script over is "inheriting".
    process = multiprocessing.current_process()
    if multiprocessing.parent_process() is None and not getattr(process, "_inheriting", False):
        warnings.warn(
            f"{origin} is hidden by ci2p's own package {name!r}, which `import {name}` gives from here on; rename that "
            "file",
            stacklevel=4,
        )


_keep_our_names()

from ci2p_cache.errors import InputError, WorkError, describe_system_error  # noqa: E402

__all__ = [
    "Cache",
    "Evaluation",
    "HubModel",
    "InputError",
    "Loader",
    "Model",
    "Run",
    "WorkError",
    "check_resume",
    "create_model",
    "encode",
    "evaluate",
    "load",
    "open",
    "register_timm_models",
    "to_hf",
    "train",
]

P = ParamSpec("P")
R = TypeVar("R")


def __getattr__(name: str) -> Any:
    if name == "HubModel":
        # huggingface_hub's mixin is its base, so torch and that have to be there before the class is.
        from pipeline.export.hub_model import HubModel

        return HubModel
    if name == "__version__":
        from importlib import metadata

        return metadata.version("ci2p")
    raise AttributeError(f"module 'ci2p' has no attribute {name!r}")


def _public(function: Callable[P, R]) -> Callable[P, R]:
    """Holds the arguments against the annotations, and lets nothing out but InputError and WorkError."""
    signature = inspect.signature(function)
    name = function.__qualname__.replace("__init__", "").rstrip(".")

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        from pipeline.api.arguments import check_arguments

        bound = signature.bind(*args, **kwargs)
        bound.arguments |= check_arguments(name, _hints(signature), dict(bound.arguments))
        try:
            return function(*bound.args, **bound.kwargs)
        except OSError as error:
            raise WorkError(describe_system_error(error)) from error

    return call


def _hints(signature: inspect.Signature) -> dict[str, Any]:
    """What each parameter takes; of *args and **kwargs anything."""
    from typing import get_type_hints

    named = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    annotated = types.SimpleNamespace(
        __annotations__={p.name: p.annotation for p in named if p.annotation is not p.empty}
    )
    return get_type_hints(annotated, globalns=globals(), include_extras=True)


@dataclass(frozen=True)
class _AtLeast:
    """In an annotation: the least value there is."""

    least: float


_Path = str | os.PathLike[str]
_Count = Annotated[int, _AtLeast(1)]
_Whole = Annotated[int, _AtLeast(0)]


# ---------------------------------------------------------------------------------------------- stage one: the cache


@_public
def encode(
    data_dir: _Path | None = None,
    *,
    items: Iterable[tuple[str, Any, int | str]] | None = None,
    val_items: Iterable[tuple[str, Any, int | str]] | None = None,
    classes: Sequence[str] | None = None,
    out: _Path | None = None,
    dataset: Literal["sample", "folder", "animals10", "imagenet", "webdataset", "huggingface", "parquet"] = "folder",
    splits: Sequence[str] | None = None,
    val_fraction: float | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    key_column: str | None = None,
    class_names: _Path | None = None,
    format: Literal["zarr", "webdataset"] = "zarr",
    store: Literal["int", "rans", "float16"] = "int",
    step: float = 1.0,
    image_size: int = 256,
    short_edge: int | None = None,
    resize_mode: Literal["crop", "squash"] = "crop",
    jpeg_decode: Literal["full", "scaled"] = "full",
    views: Literal["flip", "plain"] = "flip",
    crops: _Whole = 0,
    crop_scale: tuple[float, float] | None = None,
    augment: Literal["none", "randaugment", "authors"] = "none",
    weights: _Path = "bundled",
    device: str = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    engine: Literal["torch", "openvino"] = "torch",
    batch_size: _Count = 32,
    workers: _Whole | None = None,
    shard_size: _Count = 512,
    record_images: _Count | None = None,
    seed: int = 0,
    on_error: Literal["stop", "skip"] = "stop",
    max_pixels: _Count = 178_956_970,
    launch: Literal["ray"] | None = None,
    ray_address: str | None = None,
    ray_gpus: float | None = None,
    ray_cpus: float | None = None,
) -> Cache:
    """Encodes images into a cache of latents, or goes on where the same call stopped; `ci2p encode`, by its options.

    `data_dir` is what `dataset` says: a folder, the name of a set on the hub, tars, parquet files (whose columns
    the four options name). Or a program gives the images:
    `items` is anything to go through once, of (key, image, label). A key is a string of its own; an image is a path,
    the bytes of an image file, a PIL image, a numpy array uint8 [H, W, 3] or a tensor [3, H, W] (uint8, or float in
    [0, 1]); labels are strings, or indices into `classes`. Without `val_items`, `val_fraction` of each class (0.1) is
    held out for validation. Pictures in memory are set down in a temporary file of their full size on the way.
    `augment` is what the `crops` go through besides.

    `out`, a folder or an fsspec URL, is by default caches/ and the name of the data: `data_dir`'s, the set's, or items.
    Returns the split "train", or the first of `splits`.
    Raises InputError for wrong settings, before anything is written, and WorkError for an image that cannot be used
    (`on_error="skip"` leaves such images out), a damaged cache or a full disk.
    """
    from contextlib import ExitStack

    from ci2p_cache.remote_path import path_of
    from pipeline.encode.datasets.given import given_images
    from pipeline.encode.datasets.table_columns import TableColumns
    from pipeline.encode.decoding import default_workers
    from pipeline.encode.default_cache import default_cache
    from pipeline.encode.ray_options import options_of_launch
    from pipeline.encode.run import encode_dataset
    from pipeline.encode.shard_writer import EncodeOptions

    if items is None and (val_items is not None or classes is not None):
        raise InputError("ci2p.encode: val_items and classes go with items; give items too")
    if items is not None and (data_dir is not None or dataset != "folder"):
        raise InputError("ci2p.encode: items, or data_dir and dataset: give one of the two")
    name = dataset if items is None else "items"
    directory = None if data_dir is None else os.fspath(data_dir)
    target = path_of(os.fspath(out)) if out is not None else default_cache(name, directory)
    options = EncodeOptions(
        format=format,
        store=store,
        step=step,
        views=views,
        crops=crops,
        crop_scale=None if crop_scale is None else (crop_scale[0], crop_scale[1]),
        augment=augment,
        shard_size=shard_size,
        record_images=record_images,
        seed=seed,
        batch_size=batch_size,
        workers=default_workers() if workers is None else workers,
        on_error=on_error,
    )
    with ExitStack() as stack:
        found = None if items is None else stack.enter_context(given_images(items, val_items, classes))
        report = encode_dataset(
            name,
            directory,
            target,
            options,
            splits=None if splits is None else list(splits) or None,
            val_fraction=val_fraction,
            columns=TableColumns(
                image_column, label_column, key_column, None if class_names is None else os.fspath(class_names)
            ),
            image_size=image_size,
            short_edge=short_edge,
            resize_mode=resize_mode,
            jpeg_decode=jpeg_decode,
            weights=os.fspath(weights),
            device=device,
            precision=precision,
            engine=engine,
            max_pixels=max_pixels,
            ray=options_of_launch(launch, ray_address, ray_gpus, ray_cpus, workers),
            found=found,
        )
    written = [split.split for split in report.splits]
    return Cache(str(target), "train" if "train" in written else written[0])


@_public
def open(path: _Path, split: str = "train", *, cache_dir: _Path | None = None, cache_gb: float | None = None) -> Cache:
    """A finished split of a cache: a folder, or an fsspec URL such as s3://bucket/cache.

    What is fetched is kept in `cache_dir`, where that is given: once for all processes of the machine and all that use
    this folder, at most `cache_gb` gigabytes (50).
    Costs one manifest and a look at every shard's size. Raises InputError for what is no cache or is not finished, and
    WorkError for a shard that is missing or cut short.
    """
    return Cache(path, split, cache_dir=cache_dir, cache_gb=cache_gb)


class Cache:
    """A split of a cache, opened by `open` or `encode`: a sequence of (latent, label).

    `path` and `split` say which; `spec` holds everything that decides a stored value, its fields as in spec.json
    (`spec.image_size`, `spec.views`); `classes` are the names in the order of the labels; `labels` is int64 [N].
    """

    @_public
    def __init__(
        self, path: _Path, split: str = "train", *, cache_dir: _Path | None = None, cache_gb: float | None = None
    ):
        from ci2p_cache.cache import open_cache
        from ci2p_cache.disk_cache import local_disk

        self._cache = open_cache(os.fspath(path), split, local_disk(cache_dir, cache_gb))
        self._again = functools.partial(Cache, cache_dir=cache_dir, cache_gb=cache_gb)
        self.path: str = self._cache.path
        self.split = split
        self.spec: CacheSpec = self._cache.spec
        self.classes: list[str] = list(self._cache.classes)
        self._plain: ViewDataset | None = None
        self._decoder: Any = None

    @functools.cached_property
    def labels(self) -> NDArray[np.int64]:
        """[N] in [0, num_classes). Raises WorkError when they have changed on the disk."""
        return self._cache.labels

    @functools.cached_property
    def keys(self) -> Sequence[str]:
        """The name of each image in its data set, [N]. Raises WorkError when the list of them is damaged."""
        return self._cache.read_keys()

    def __len__(self) -> int:
        """N, images; each has all views of `spec.views`."""
        return self._cache.num_samples

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], int]:
        """(latent float32 [C, H, W] of the plain view, label). Raises InputError, an IndexError too, beyond the end."""
        latent, label = self._views()[index]
        return latent.numpy(), label

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], int]]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        from ci2p_cache.printable import counted

        amounts = f"{counted(len(self), 'image')}, {counted(len(self.classes), 'class')}"
        return (
            f"ci2p.Cache({self.path!r}, {self.split!r}): {amounts}, "
            f"latents {list(self.spec.latent_shape)}, views {', '.join(self.spec.views)}"
        )

    @_public
    def latents(self, indices: Sequence[int] | None = None, view: str | int = "plain") -> NDArray[np.float32]:
        """Latents float32 [n, C, H, W] of these images, or of all, in one view, given by name or number."""
        import numpy as np

        from ci2p_cache.reader import ViewReader
        from pipeline.api.view_dataset import sample_numbers, view_number

        samples = sample_numbers(range(len(self)) if indices is None else indices, len(self))
        views = np.full(len(samples), view_number(self._cache, view))
        return ViewReader(self._cache.split_dir, self._cache.manifest, disk=self._cache.disk).read_latents(
            self._cache.positions_of(samples), views
        )

    @_public
    def image(
        self, index: int, view: str | int = "plain", *, weights: _Path = "bundled", device: str = "cpu"
    ) -> Image.Image:
        """The picture that a latent decodes to: PIL, RGB, `spec.image_size` pixels square.

        Raises InputError when `weights` are not those of the codec that made the cache.
        """
        from pipeline.encode.pictures import PictureDecoder

        key = (os.fspath(weights), device)
        if self._decoder is None or self._decoder[0] != key:
            self._decoder = (key, PictureDecoder(self.spec, *key))
        picture: Image.Image = self._decoder[1].image(self.latents([index], view)[0])
        return picture

    @_public
    def dataset(self, view: str | int = "random", *, seed: int = 0) -> ViewDataset:
        """A torch map-style Dataset of (latent float32 tensor [C, H, W], label), for any DataLoader or trainer.

        It has `keys`, `labels`, `classes`, and can be pickled, to spawned workers too. With view="random" a sample
        shows another of its views every epoch, as in `train`: a function of (seed, epoch). **Call
        `dataset.set_epoch(n)` before each epoch**, else every epoch is epoch 0; running workers learn of it too.
        Evaluation takes view="plain". A remote cache is read shard by shard: there `loader` is many times faster.
        """
        from pipeline.api.view_dataset import ViewDataset

        return ViewDataset(self._cache, view, seed)

    @_public
    def loader(
        self,
        batch_size: _Count = 256,
        *,
        device: str = "cpu",
        seed: int = 0,
        shuffle: bool = True,
        view: str | int | None = None,
        workers: _Count = 2,
        resident: Literal["auto", "cpu", "cuda", "off"] = "auto",
        rank: _Whole = 0,
        world_size: _Count = 1,
    ) -> Loader:
        """ci2p's own loader: batches on `device`, decoded by threads, whose order is a function of (seed, epoch, step).

        `batch_size` counts all `world_size` processes, of which this is `rank`. With `shuffle`, full batches in another
        order every epoch, each sample in another view ("random"); without, every sample once in its plain view, the
        last batch short. `view` pins one view. `resident` says whether the split is held in memory, and where.
        Raises InputError for a batch that does not divide by the processes, and for what does not fit in memory.
        """
        return Loader(
            self,
            batch_size=batch_size,
            device=device,
            seed=seed,
            shuffle=shuffle,
            view=view,
            workers=workers,
            resident=resident,
            rank=rank,
            world_size=world_size,
        )

    def _views(self) -> ViewDataset:
        if self._plain is None:
            self._plain = self.dataset("plain")
        return self._plain

    def __reduce__(self) -> tuple[Any, ...]:
        return self._again, (self.path, self.split)


class Loader:
    """Batches of a cache: what `Cache.loader` gives.

        for epoch in range(epochs):
            for latents, labels in loader.epoch(epoch):     float32 [B, C, H, W] and int64 [B], on the device

    or `for latents, labels in loader`, which takes the next epoch each time, and `set_epoch` as samplers have it.
    """

    def __init__(self, cache: Cache, **settings: Any):
        if settings["view"] == "random" and not settings["shuffle"]:
            raise InputError("ci2p.Cache.loader(view='random'): without shuffle a view is named, or left out for plain")
        if settings["rank"] >= settings["world_size"]:
            raise InputError(f"ci2p.Cache.loader(rank={settings['rank']}): world_size is {settings['world_size']}")
        self._cache = cache
        self._settings = settings
        self._open: tuple[int, Any] | None = None
        self._epoch = 0  # of the next batch
        self._step = 0
        self._resumes = False
        self._batches()

    def __len__(self) -> int:
        """Batches an epoch."""
        return int(self._batches().steps_per_epoch)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of the next epoch; of the first one after `load_state_dict`, those that are left."""
        if self._step and not self._resumes:  # the last one was left in the middle
            self._epoch += 1
        return self.epoch(self._epoch)

    def epoch(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of one epoch, from 0 on; those that are left, where `load_state_dict` came to this epoch."""
        self.set_epoch(epoch)
        self._resumes = False
        return self._run(self._epoch, self._step)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next."""
        _check_whole("Loader.set_epoch", "epoch", epoch)
        if not (self._resumes and epoch == self._epoch):
            self._epoch, self._step, self._resumes = int(epoch), 0, False

    def state_dict(self) -> dict[str, int | str]:
        """Where the next batch is: epoch and step, and what they are counted in. Plain values, for any checkpoint."""
        return {"epoch": self._epoch, "step": self._step, **self._counted_in()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from there. Raises InputError for the state of another order: seed, batch size or cache."""
        for name, ours in self._counted_in().items():
            if state.get(name) != ours:
                raise InputError(
                    f"load_state_dict: {name} is {state.get(name)!r} in the state and {ours!r} here; make the loader "
                    "with the settings it was saved under"
                )
        for name in ("epoch", "step"):
            _check_whole("Loader.load_state_dict", name, state.get(name))
        if state["step"] >= len(self):
            raise InputError(f"load_state_dict: step is {state['step']}, and an epoch has {len(self)}")
        self._epoch, self._step, self._resumes = int(state["epoch"]), int(state["step"]), True

    def _run(self, epoch: int, first_step: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        last = len(self) - 1
        for step, batch in enumerate(self._batches().epoch(epoch, first_step), start=first_step):
            self._epoch, self._step = (epoch, step + 1) if step < last else (epoch + 1, 0)
            yield batch.latents, batch.labels

    def _counted_in(self) -> dict[str, int | str]:
        settings = self._settings
        return {
            "seed": settings["seed"],
            "batch_size": settings["batch_size"],
            "shuffle": int(settings["shuffle"]),
            "cache": f"{self._cache.spec.spec_id}-{(self._cache._cache.manifest.contents_sha256 or '')[:16]}",
        }

    def _batches(self) -> Any:
        """This process's own: threads do not come through a fork."""
        if self._open is None or self._open[0] != os.getpid():
            from ci2p_cache.loader import BatchLoader
            from pipeline.api.view_dataset import RANDOM, view_number
            from pipeline.running.devices import resolve_device

            cache = self._cache._cache
            settings = self._settings | {"device": resolve_device(self._settings["device"])}
            if settings["view"] == RANDOM:
                settings["view"] = None
            elif settings["view"] is not None:
                settings["view"] = view_number(cache, settings["view"])
            self._open = (os.getpid(), BatchLoader(cache, **settings))
        return self._open[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}


@_public
def check_resume(make: Callable[[], Any], *, most_steps: _Count = 1000) -> int:
    """Whether a loader goes on from a saved state as if it had never stopped, tried at every step: for your own tests.

    `make()` gives a new one each time: anything that can be iterated and has `state_dict` and `load_state_dict`. It is
    walked through once, for `most_steps` items at most; from every state on the way another is restored, and all that
    follows compared to the bit. Returns how many states were tried. Raises WorkError naming the first state and item
    that differ, InputError for what has no state.
    """
    from pipeline.api.resume_check import check_resume as check

    return check(make, most_steps)


@_public
def to_hf(
    cache: Cache | _Path, split: str = "train", *, view: str | int = "plain", streaming: bool = False
) -> datasets.Dataset | datasets.IterableDataset:
    """A Hugging Face dataset of a cache: `latent` (Array3D float32 [C, H, W]), `label` (ClassLabel), `key` (string).

    It is written once into that library's own cache, as float32 (196 kB a view at 256 pixels), and memory-mapped from
    there; with `streaming` nothing is written, and it is read in order. A `Cache` brings its own split.
    Raises InputError where the package `datasets` is missing.
    """
    from pipeline.api.hugging_face import hugging_face_dataset

    opened = cache if isinstance(cache, Cache) else Cache(cache, split)
    return hugging_face_dataset(opened._cache, view, streaming=streaming)


# ---------------------------------------------------------------------------------------------- stage two: the model


@_public
def create_model(
    name: str,
    num_classes: _Count,
    image_size: _Count = 256,
    *,
    drop_path: float = 0.0,
    tokens: int = 64,
    pretrained: bool | str = False,
) -> torch.nn.Module:
    """A model with fresh weights that reads latents float32 [B, 192, image_size / 16, image_size / 16]: logits [B, K].

    `name` is one of ci2p's (ci2p_vit_tiny, _small, _base, _large, _ds) or any VisionTransformer of timm's; it is
    trained in anyone's loop. `tokens` is what it makes of 256 x 256 pixels: 64, or 256 for the first four.
    `pretrained` starts one of timm's from its published weights, or from a file of them. Raises InputError for an
    unknown name, saying the nearest, and for weights that cannot be had.
    """
    from pipeline.models import Variant
    from pipeline.models import create_model as create

    if image_size % 32:
        raise InputError(f"ci2p.create_model(image_size={image_size}): give a multiple of 32, such as 256")
    if not 0 <= drop_path < 1:
        raise InputError(f"ci2p.create_model(drop_path={drop_path}): give a rate from 0 on and below 1")
    size = image_size // 16
    return create(
        name,
        num_classes=num_classes,
        input_shape=(192, size, size),
        drop_path=drop_path,
        variant=Variant(tokens=tokens),
        pretrained=pretrained,
    )


def register_timm_models() -> list[str]:
    """Makes ci2p's models known to `timm.create_model`, and returns their names.

    There they take `num_classes`, `latent_size` (16; an image's side over 16) and timm's own arguments. It is no part
    of `import ci2p`, which answers at once, because timm's import takes a second.
    """
    from pipeline.models import model_names

    return model_names()


@dataclass(frozen=True)
class Run:
    """What `train` has come to, over all its interruptions. It stands for its folder wherever a path is taken."""

    path: Path
    finished: bool
    epochs: int
    """Finished ones."""
    best_top1: float | None
    """Share of the validation images in [0, 1]; None before the first evaluation."""
    final_top1: float | None
    images_per_s: float
    seconds: float
    params: int

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A record an epoch, as in metrics.jsonl: epoch, step, train_loss, val_top1, val_top5, lr, images_per_s, ..."""
        from pipeline.train.metrics_log import read_metrics

        return read_metrics(self.path)


@_public
def train(
    cache: Cache | _Path,
    *,
    recipe: _Path = "quick",
    out: _Path | None = None,
    callbacks: Sequence[Callable[[dict[str, Any]], bool | None]] = (),
    device: str = "auto",
    workers: _Count = 2,
    resident: Literal["auto", "cpu", "cuda", "off"] = "auto",
    max_minutes: float | None = None,
    cache_dir: _Path | None = None,
    cache_gb: float | None = None,
    loggers: Sequence[str] = (),
    **settings: Any,
) -> Run:
    """Trains a model on a cache's train and val, or goes on where the same call stopped; `ci2p train`, by its options.

    `recipe` is a name or a TOML file; `settings` are anything in it: model, epochs, lr, seed, mixup=0.8, ... `out` is
    by default runs/MODEL-CACHE-SEED. Each of `callbacks` is called with an epoch's metrics (the keys of `Run.metrics`)
    once its checkpoint is written; True ends the run there, to be gone on with or not. What is fetched of a remote
    cache is kept in `cache_dir`, at most `cache_gb` gigabytes (50); by default where the `Cache` keeps it. `loggers`
    are "mlflow", "trackio" and "wandb", as `--logger` takes them.

    Raises InputError for a setting that is unknown or out of bounds, or an `out` that holds another run; WorkError when
    the loss is no longer finite, a shard is damaged or the disk refuses: the last checkpoint stays.
    """
    from dataclasses import asdict

    import torch

    from ci2p_cache.disk_cache import local_disk
    from ci2p_cache.local_path import refuse_url
    from pipeline.train.data import open_training_data
    from pipeline.train.loop import train as train_model
    from pipeline.train.recipe import load_recipe
    from pipeline.train.run_folder import default_run

    if max_minutes is not None and not max_minutes > 0:
        raise InputError(f"ci2p.train(max_minutes={max_minutes}): give more than 0 minutes, or leave it out")
    path = cache.path if isinstance(cache, Cache) else os.fspath(cache)
    resolved = load_recipe(os.fspath(recipe), settings)
    disk = local_disk(cache_dir, cache_gb) or (cache._cache.disk if isinstance(cache, Cache) else None)
    data = open_training_data(path, workers=workers, resident=resident, disk=disk)
    if out is not None:
        refuse_url("ci2p.train(out=...):", os.fspath(out), "a run is written on a file system: give a folder")
    run = default_run(resolved.model, path, resolved.seed) if out is None else Path(out)
    calls = [_with_metrics(callback, asdict) for callback in callbacks]
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(cuda):  # the loop seeds torch's generators, which are the caller's
        result = train_model(
            resolved, data, run, device=device, max_minutes=max_minutes, callbacks=calls, loggers=loggers
        )
    return Run(
        path=result.run,
        finished=result.finished,
        epochs=result.epochs,
        best_top1=result.best_top1,
        final_top1=result.final_top1,
        images_per_s=result.images_per_s,
        seconds=result.seconds,
        params=result.params,
    )


def _with_metrics(
    callback: Callable[[dict[str, Any]], bool | None], as_dict: Callable[[Any], dict[str, Any]]
) -> Callable[[Any], bool | None]:
    return lambda metrics: callback(as_dict(metrics))


# ------------------------------------------------------------------------------------------------ what came of it


@_public
def load(run: _Path | None = None, *, weights: _Path = "bundled", device: str = "auto") -> Model:
    """The trained model of a run: a `Run`, its folder or a file of weights in it; by default the newest in runs/.

    `weights` are the encoder's, needed for images alone. Raises InputError when there is no such run, and WorkError
    when its weights are damaged.
    """
    return Model(run, weights=weights, device=device)


class Model:
    """A trained model that takes images: `load` gives it.

    `path` is its run, `classes` are the names in the order of the logits, and `module` is the torch module, in
    evaluation mode on its device, which maps latents float32 [B, C, H, W] to logits [B, K].
    """

    @_public
    def __init__(self, run: _Path | None = None, *, weights: _Path = "bundled", device: str = "auto"):
        from pipeline.running.devices import resolve_device
        from pipeline.train.run_folder import newest_run
        from pipeline.train.trained_model import load_model

        self.path = newest_run() if run is None else Path(run)
        module, config = load_model(self.path)
        self._device = resolve_device(device)
        self._config = config
        self._weights = os.fspath(weights)
        self._rendering: Any = None
        self.module: torch.nn.Module = module.to(self._device)
        self.classes: list[str] = list(config.data.classes)

    def __repr__(self) -> str:
        from ci2p_cache.printable import counted

        model = f"{self._config.recipe.model}, {counted(len(self.classes), 'class')}"
        return f"ci2p.Model({str(self.path)!r}): {model}"

    @_public
    def predict(self, images: Any, *, top: _Count | None = 3, batch_size: _Count = 32) -> Any:
        """The `top` likeliest classes (None: all) with their probabilities: [("cat", 0.93), ("dog", 0.04), ...].

        `images` is a path, a URL, the bytes of an image file, a PIL image, a numpy array uint8 [H, W, 3] or a tensor
        [3, H, W], uint8 or float in [0, 1]; every one is prepared, encoded and rounded as the training images were. A
        list of these (or an array [N, ...]) gives a list, a folder {relative path: ...} of all image files in it at any
        depth, and a `Cache` a list, from its latents.
        Raises InputError, naming it, for what is no usable image, and WorkError for a URL that cannot be read.
        """
        from pipeline.api.outputs import probabilities

        shares_NK, sources = self._outputs(images, probabilities, batch_size)
        ranked = [self._ranked(shares_K, top) for shares_K in shares_NK]
        if sources is None or sources.kind == "list":
            return ranked
        return ranked[0] if sources.kind == "one" else dict(zip(sources.names, ranked, strict=True))

    @_public
    def features(self, images: Any, *, batch_size: _Count = 32) -> NDArray[np.float32]:
        """What the classifier reads, pooled over the tokens: float32 [N, D], for retrieval or a probe of your own.

        Takes what `predict` takes; one image gives [1, D], a folder its files in the order of their paths.
        """
        from pipeline.api.outputs import pooled

        features_ND, _ = self._outputs(images, pooled, batch_size)
        return features_ND

    def _outputs(self, images: Any, output: Any, batch_size: int) -> tuple[NDArray[np.float32], Any]:
        from pipeline.api.outputs import of_cache, of_images
        from pipeline.api.sources import find_sources
        from pipeline.evaluate.images import open_rendering
        from pipeline.evaluate.predictions import refuse_other_latents

        if isinstance(images, Cache):
            refuse_other_latents(self._config.data, images._cache)
            return of_cache(self.module, images._cache, self._device, output, batch_size), None
        sources = find_sources(images)
        if self._rendering is None:
            self._rendering = open_rendering(self._config.data.spec, self._weights, self._device)
        return of_images(self.module, self._rendering, sources, output, batch_size), sources

    def _ranked(self, shares_K: NDArray[np.float32], top: int | None) -> list[tuple[str, float]]:
        likeliest = sorted(zip(self.classes, shares_K.tolist(), strict=True), key=lambda pair: -pair[1])
        return likeliest if top is None else likeliest[:top]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured. All shares are in [0, 1]."""

    top1: float
    top5: float
    """Among the five likeliest classes; all of them, if fewer."""
    ece: float
    """Expected calibration error, 15 equal bins."""
    per_class: dict[str, float | None]
    """Top-1 of each class; None for one without images."""
    confusion: list[list[int]]
    """K rows of K numbers; row: the label, column: the prediction."""
    num_images: int
    measured_on: str
    """For people: which images they were."""
    num_missing: int
    """Images of the split that the folder lacks."""
    failures: dict[str, str]
    """Key and reason of images that were left out, under on_error="skip"."""
    classes: list[str]
    keys: list[str]
    """[N] of the images that were measured."""
    labels: NDArray[np.int64]
    """[N]"""
    probabilities: NDArray[np.float32]
    """[N, K]"""

    @property
    def predictions(self) -> dict[str, str]:
        """Key -> the likeliest class."""
        return dict(zip(self.keys, (self.classes[k] for k in self.probabilities.argmax(1).tolist()), strict=True))


@_public
def evaluate(
    run: _Path | None = None,
    *,
    shards: Cache | _Path | None = None,
    images: _Path | None = None,
    split: str = "val",
    tta: bool = False,
    weights: _Path = "bundled",
    device: str = "auto",
    batch_size: _Count = 64,
    workers: _Whole | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    max_pixels: _Count = 178_956_970,
    cache_dir: _Path | None = None,
    cache_gb: float | None = None,
) -> Evaluation:
    """Measures a run (the newest under runs/ by default) on a split of a cache, its own by default, or on raw `images`.

    Of images that the cache was made from, exactly those of `split` are measured, found by key; of another folder all,
    unless the model was trained on some of them. `tta` averages over each image and its mirror image. `ci2p eval`.
    `cache_dir` and `cache_gb` as in `train`.
    Raises InputError for what is no run, cache or folder, or does not belong together, and WorkError for damage.
    """
    import numpy as np

    from ci2p_cache.disk_cache import local_disk
    from pipeline.evaluate.run import evaluate as evaluate_model

    disk = local_disk(cache_dir, cache_gb) or (shards._cache.disk if isinstance(shards, Cache) else None)
    cache = shards.path if isinstance(shards, Cache) else shards
    report = evaluate_model(
        None if run is None else os.fspath(run),
        shards=None if cache is None else os.fspath(cache),
        images=None if images is None else os.fspath(images),
        split=split,
        tta=tta,
        weights=os.fspath(weights),
        device=device,
        batch_size=batch_size,
        workers=workers,
        on_error=on_error,
        max_pixels=max_pixels,
        disk=disk,
    )
    scores, made = report.scores, report.predictions
    none = np.empty((0, len(scores.per_class)), np.float32)
    return Evaluation(
        top1=scores.top1,
        top5=scores.top5,
        ece=scores.ece,
        per_class=scores.per_class,
        confusion=scores.confusion,
        num_images=scores.num_images,
        measured_on=report.measured_on,
        num_missing=report.num_missing,
        failures={failure.key: failure.reason for failure in report.failures},
        classes=list(scores.per_class),
        keys=[report.keys[place] for part in made for place in part.places.tolist()],
        labels=np.concatenate([np.empty(0, np.int64), *(part.labels.numpy() for part in made)]),
        probabilities=np.concatenate([none, *(part.probabilities.numpy() for part in made)]),
    )


# --------------------------------------------------------------------------------------------------------- private


def _check_whole(function: str, name: str, value: Any) -> None:
    from pipeline.api.arguments import check_arguments

    check_arguments(function, {name: _Whole}, {name: value})


def _restore(module: str, name: str, state: dict[str, Any]) -> Any:
    """What was pickled by one of ci2p's inner classes, in a process where ci2p has just been imported."""
    kind = getattr(importlib.import_module(module), name)
    restored = kind.__new__(kind)
    restored.__dict__.update(state)
    return restored


def _main() -> NoReturn:
    """The command: `ci2p`, and `python -m ci2p`. It runs the cli.py beside this file, whatever others are about."""
    spec = importlib.util.spec_from_file_location("cli", f"{_HERE}/cli.py")
    assert spec is not None and spec.loader is not None
    sys.modules["cli"] = cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cli)
    cli.main(prog_name="ci2p")
    sys.exit(0)


if __name__ == "__main__":
    _main()
