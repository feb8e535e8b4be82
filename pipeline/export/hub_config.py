"""config.json of a folder for the Hugging Face Hub, as timm and huggingface_hub's mixin read it."""

from typing import Any

from pipeline.baselines.pixel_spec import is_pixels
from pipeline.export.record import ExportRecord
from pipeline.models import has_image_size, name_for_timm
from pipeline.train.run_folder import RunConfig

# Said above, or of no use elsewhere.
_NOT_SAID = {"classes", "absolute_path", "path_from_run", "window_shards", "order_version"}


def hub_config(model: Any, config: RunConfig, record: ExportRecord, license: str) -> dict[str, Any]:
    """`model` is the run's, as timm has it: without its window."""
    name, more = name_for_timm(config.recipe.model, config.variant)
    channels, side, _ = config.data.input_shape
    args: dict[str, Any] = {"latent_channels": channels, "latent_size": side}
    if is_pixels(config.data.spec):
        args = {"img_size": side} if has_image_size(config.recipe.model) else {}
    pretrained_cfg: dict[str, Any] = {
        "input_size": config.data.input_shape,
        "fixed_input_size": model.pretrained_cfg["fixed_input_size"],
        "mean": [0.0] * channels,
        "std": [1.0] * channels,
        "num_classes": len(record.classes),
        "first_conv": None,  # whose channels timm would adapt; that is made for pixels
        "classifier": model.pretrained_cfg["classifier"],
        "license": license,
    }
    return {
        "architecture": name,
        "num_classes": len(record.classes),
        "label_names": list(record.classes),
        "model_args": args | more,
        "pretrained_cfg": pretrained_cfg,
        "window": config.recipe.window,
        "ci2p": record.model_dump(mode="json", exclude={"classes": True, "data": _NOT_SAID}),
    }
