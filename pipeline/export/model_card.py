"""README.md of a folder for the Hugging Face Hub: a model card in the order of timm's, under the Hub's YAML."""

import re
from dataclasses import dataclass
from typing import Any

from ci2p_cache.printable import counted, printable
from ci2p_cache.spec import ON_THE_FLY
from pipeline.baselines.pixel_spec import is_pixels
from pipeline.export.measured import Measured
from pipeline.export.record import ExportRecord
from pipeline.train.recipe import Recipe
from pipeline.train.run_folder import RunConfig

FOLDER = "path/to/this/folder"
"""What stands in the card's code for the folder, where it was published under no name."""

_MOST_CLASSES = 20
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|])")
_NOT_SHOWN = ("model", "init_from", "checkpoint_every_minutes", "checkpoint_every_steps")


@dataclass(frozen=True)
class Published:
    """What a card says beside the run's config."""

    record: ExportRecord
    config: RunConfig
    """Without places."""
    num_params: int
    license: str
    measured: Measured | None
    name: str | None
    """On the Hub."""


def model_card(published: Published) -> str:
    """The whole file. Nothing stands in it that the run does not hold."""
    record = published.record
    title = published.name or f"{record.model} on {record.data.spec['dataset']}"
    parts = [
        f"---\n{_front_matter(published, title)}\n---",
        f"# Model card for {_text(title)}",
        "An image classification model trained with ci2p"
        + (
            ", on pixels."
            if is_pixels(record.data.spec)
            else ": a Vision Transformer that reads learned-codec latents."
        ),
        "## Model Details\n" + "\n".join(_details(published)),
        "## Model Usage\n" + _usage(published),
        "## Training Data\n" + "\n".join(_data(record)),
        "## Recipe\n" + _recipe(published.config),
        "## Evaluation\n" + _evaluation(published.measured),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(published: Published, title: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    dataset = str(published.record.data.spec["dataset"])
    measured = published.measured
    results = None
    if measured is not None:
        results = [
            EvalResult(
                task_type="image-classification",
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split="val",
                metric_type="accuracy",
                metric_name=name,
                metric_value=value,
            )
            for name, value in (("top-1", measured.top1), ("top-5", measured.top5))
            if value is not None
        ]
    card = ModelCardData(
        license=published.license,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "ci2p", "pytorch_model_hub_mixin"],
        metrics=None if measured is None else ["accuracy"],
        model_name=title,
        eval_results=results,
    )
    return str(card.to_yaml()).strip()


def _details(published: Published) -> list[str]:
    record, config = published.record, published.config
    shape = "x".join(map(str, config.data.input_shape))
    kind = "pixels, RGB in [0, 1]" if is_pixels(record.data.spec) else "latents, float32"
    lines = [
        f"- **Model Type:** image classification, `{record.model}`",
        f"- **Params (M):** {published.num_params / 1e6:.2f}",
        f"- **Input:** {kind}, {shape}",
        f"- **Classes:** {_classes(record.classes)}",
        f"- **Weights:** SHA-256 `{record.weights_sha256}`",
        f"- **Made by:** {', '.join(f'{name} {version}' for name, version in config.versions.items())}",
    ]
    if published.license == "unknown":
        lines.append("- **License:** none was named by whoever exported the model")
    return lines


def _classes(classes: tuple[str, ...]) -> str:
    names = ", ".join(map(_text, classes[:_MOST_CLASSES])) + (", ..." if len(classes) > _MOST_CLASSES else "")
    return f"{len(classes)} (`label_names` in config.json): {names}"


def _usage(published: Published) -> str:
    name = published.name
    folder = f'huggingface_hub.snapshot_download("{name}")' if name else f'"{FOLDER}"'
    imports = "import ci2p\nimport huggingface_hub" if name else "import ci2p"
    latents = "pixels" if is_pixels(published.record.data.spec) else "latents"
    shape = ", ".join(map(str, published.config.data.input_shape))
    window = published.config.recipe.window
    whole = ", ".join(map(str, _whole_shape(published)))
    centre = f" It reads the centre of the cache's latents, {window} x {window} cells." if window else ""
    return f"""timm alone does not know the model: ci2p {published.record.ci2p_version} or newer has to be installed,
as a library.

### Images to classes, with ci2p

```python
{imports}

model = ci2p.load({folder})
print(model.predict("image.jpg", top=3))
```

### With timm

It takes {latents}, float32 [B, {shape}].{centre}

```python
import ci2p

ci2p.register_timm_models()

import timm

model = timm.create_model("{f"hf-hub:{name}" if name else f"local-dir:{FOLDER}"}", pretrained=True).eval()
```

### With huggingface_hub's PyTorchModelHubMixin

It takes {latents}, float32 [B, {whole}].

```python
import ci2p

model = ci2p.HubModel.from_pretrained("{name or FOLDER}")
print(model.label_names)
```"""


def _whole_shape(published: Published) -> tuple[int, ...]:
    shape = published.config.data.input_shape
    if not published.config.recipe.window:
        return shape
    side = published.record.data.spec["image_size"] // 16
    return (shape[0], side, side)


def _data(record: ExportRecord) -> list[str]:
    spec = record.data.spec
    lines = [f"- **Dataset:** {_text(str(spec['dataset']))}, {counted(len(record.classes), 'class')}"]
    if spec.get("val_fraction") is not None:
        lines.append(f"- **Held out for validation:** {spec['val_fraction']:g} of each class")
    lines.append(f"- **Preprocessing:** {', '.join(f'{name} {value}' for name, value in record.preprocessing.items())}")
    if not is_pixels(spec):
        step = "" if spec["step"] is None else f", step {spec['step']:g}"
        lines += [
            f"- **Encoder:** {_text(spec['encoder'])}, weights SHA-256 `{spec['weights_sha256']}`",
            f"- **Latents:** store {spec['store']}{step}; views {', '.join(map(_text, spec['views']))}",
            f"- **{'Encoded on the fly' if ON_THE_FLY in spec else 'Cache'}:** `{record.data.fingerprint}`",
        ]
    return lines


def _recipe(config: RunConfig) -> str:
    recipe = config.recipe
    rows = [(name, value) for name, value in recipe.model_dump().items() if name not in _NOT_SHOWN]
    lines = [f"| {name} | {_text(_shown(value))} |" for name, value in rows]
    if recipe.init_from:
        lines.append(f"| init_from | another run: {_text(recipe.init_from)} |")
    device = f"Trained on {_text(config.device)}, {counted(config.world_size, 'process')}."
    return "\n".join([device, "", "| setting | value |", "|---|---|", *lines])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _evaluation(measured: Measured | None) -> str:
    if measured is None:
        return "These weights' accuracy is not among what the run measured; measure it with `ci2p eval`."
    on = "the validation split" + ("" if measured.num_images is None else f" ({counted(measured.num_images, 'image')})")
    top5 = "of too few classes" if measured.top5 is None else f"{100 * measured.top5:.2f} %"
    return f"""By the run's own `metrics.jsonl`, epoch {measured.epoch}, on {on}.
That epoch was chosen by its top-1 on the same images.

| top-1 | top-5 | loss |
|---|---|---|
| {100 * measured.top1:.2f} % | {top5} | {measured.loss:.4f} |

Nothing else was measured."""


def without_places(recipe: Recipe) -> Recipe:
    """A recipe of which paths on the machine that trained are their last names."""
    pretrained = recipe.pretrained
    return recipe.model_copy(
        update={
            "init_from": _last_name(recipe.init_from),
            "pretrained": _last_name(pretrained) if isinstance(pretrained, str) else pretrained,
        }
    )


def _last_name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _text(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", printable(text))
