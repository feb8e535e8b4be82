"""The command that trains a run again, from what its config.json holds."""

import json
import shlex
from typing import Any

from ci2p_cache.errors import InputError
from pipeline.baselines.on_the_fly_record import images_of_record, on_the_fly_of
from pipeline.baselines.pixel_spec import is_pixels
from pipeline.report.run_record import RunRecord
from pipeline.train.recipe import Recipe, load_recipe, recipe_names

_DEFAULT_RECIPE = "paper-animals10"
_OWN_OPTIONS = ("model", "epochs", "batch_size", "lr", "seed", "precision")
# What the result does not depend on, whatever it was.
_NOT_REPEATED = ("checkpoint_every_minutes", "checkpoint_every_steps")
_FOLLOWS = "warmup_epochs"  # from the epochs, where nothing else is said


def repeat_command(run: RunRecord) -> str:
    """One line for a shell: by the recipe of ci2p's that is nearest, with all that differs, into another folder."""
    words = ["ci2p", *_data_words(run), *_recipe_words(run.config.recipe, is_baseline=is_pixels(run.config.data.spec))]
    world, device = run.config.world_size, run.config.device.partition(":")[0]
    if world > 1 and device == "cuda":
        words += ["--gpus", str(world)]
    elif world > 1:
        words = ["torchrun", f"--nproc-per-node={world}", "--no-python", *words]
    if device != "cuda":
        words += ["--device", device]
    words += ["--out", f"{run.path}-again"]
    return shlex.join(words)


def _data_words(run: RunRecord) -> list[str]:
    data = run.config.data
    spec = images_of_record(data.spec)
    if spec is None:
        streamed = ["--resident", "off"] if data.window_shards else []
        return ["train", "--shards", data.path, *streamed]
    words = ["baseline"]
    how = on_the_fly_of(data.spec)
    if how is not None:
        words = ["train", "--encode", "on-the-fly", "--weights", how.weights, "--step", f"{data.spec['step']:g}"]
        words += ["--encoder-precision", how.precision]
    words += ["--dataset", spec.dataset, "--image-size", str(spec.image_size)]
    words += ["--short-edge", str(spec.short_edge), "--resize-mode", spec.resize_mode]
    if spec.crops is not None and spec.crop_scale is not None:
        words += ["--crops", spec.crops, "--crop-scale", *(f"{share:g}" for share in spec.crop_scale)]
        words += ["--augment", spec.augment or "none"]
    if spec.data_dir is not None:
        words += ["--data-dir", spec.data_dir]
    if spec.val_fraction is not None:
        words += ["--val-fraction", f"{spec.val_fraction:g}", "--data-seed", str(spec.data_seed)]
    return words


def _recipe_words(recipe: Recipe, *, is_baseline: bool) -> list[str]:
    """The options that make this recipe, fewest of all that do; of equally few by the default recipe."""
    names = sorted(recipe_names(), key=lambda name: name != _DEFAULT_RECIPE)
    found = []
    for name in names:
        settings = _differences(recipe, name)
        words = [] if name == _DEFAULT_RECIPE else ["--recipe", name]
        if is_baseline:  # which has a default model of its own
            settings.setdefault("model", recipe.model)
        for field, value in settings.items():
            words += _option(field, value)
        found.append(words)
    return min(found, key=len)


def _differences(recipe: Recipe, name: str) -> dict[str, Any]:
    """What has to be laid over a recipe of ci2p's to make this one."""

    def differing(base: Recipe) -> dict[str, Any]:
        fields = [field for field in Recipe.model_fields if field not in _NOT_REPEATED]
        return {f: getattr(recipe, f) for f in fields if getattr(recipe, f) != getattr(base, f)}

    settings = differing(load_recipe(name))
    follows = settings.pop(_FOLLOWS, recipe.warmup_epochs)
    try:
        return settings | differing(load_recipe(name, settings))
    except InputError:  # the recipe's own is too long for these epochs
        return settings | {_FOLLOWS: follows}


def _option(field: str, value: Any) -> list[str]:
    if field in _OWN_OPTIONS:
        return [f"--{field.replace('_', '-')}", str(value)]
    if field == "compile" and isinstance(value, bool):
        return ["--compile" if value else "--no-compile"]
    return ["--set", f"{field}={json.dumps(value)}"]
