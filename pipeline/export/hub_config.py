"""config.json of a folder for the Hugging Face Hub, as timm and huggingface_hub's mixin read it."""

from typing import Any

from torch import nn

from ci2p_cache.errors import InputError
from pipeline.baselines.pixel_spec import is_pixels
from pipeline.export.record import ExportRecord
from pipeline.models import baseline_names, model_names
from pipeline.train.run_folder import RunConfig

_NOT_SAID = {"classes", "absolute_path", "path_from_run", "window_shards"}  # said above, or of no use elsewhere


def refuse_unbuildable(config: RunConfig) -> None:
    """Raises InputError for a model that timm cannot build by its name."""
    name = config.recipe.model
    if name not in (*model_names(), *baseline_names()):
        raise InputError(
            f"--to hub: {name} is timm's with PatchReshape in it, and timm builds no such model by a name; export it "
            f"with --to onnx or --to torch, or train one of {', '.join(model_names())}"
        )


def hub_config(model: nn.Module, config: RunConfig, record: ExportRecord, license: str) -> dict[str, Any]:
    """`model` is the run's, without its window."""
    name = config.recipe.model
    channels, side, _ = config.data.input_shape
    args = {"img_size": side} if is_pixels(config.data.spec) else {"latent_channels": channels, "latent_size": side}
    pretrained_cfg: dict[str, Any] = {
        "input_size": config.data.input_shape,
        "fixed_input_size": True,
        "mean": [0.0] * channels,
        "std": [1.0] * channels,
        "num_classes": len(record.classes),
        "first_conv": None,  # whose channels timm would adapt; that is made for pixels
        "classifier": "vit.head" if name.startswith("cnn_vit") else "head",
        "license": license,
    }
    return {
        "architecture": name,
        "num_classes": len(record.classes),
        "num_features": model.num_features,
        "label_names": list(record.classes),
        "model_args": args,
        "pretrained_cfg": pretrained_cfg,
        "window": config.recipe.window,
        "ci2p": record.model_dump(mode="json", exclude={"classes": True, "data": _NOT_SAID}),
    }
