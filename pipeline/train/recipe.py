"""Recipe: every setting that decides what a training run computes, with the paper's values as defaults."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ci2p_cache.errors import InputError
from ci2p_cache.user_text import read_text

PAPER_WARMUP_EPOCHS = 20.0
_CONSTANT_WARMUP_EPOCHS = 0.5  # of a schedule that has no end to be a share of
_EPOCHS_PER_WARMUP_EPOCH = 15  # the paper's 300 epochs to its 20
_LONG_EPOCHS = 300  # from here on the warm-up is the paper's
_MOST_SHOWN = 80  # characters of a value in a message

_Rate = Annotated[float, Field(ge=0, lt=1)]
_Count = Annotated[int, Field(lt=2**31)]  # TOML's integers know no end


_EPOCHS: TypeAdapter[int] = TypeAdapter(int)
_BARE = re.compile(r"""[A-Za-z][\w.-]*|[^"'\[\]{}]*[/\\][^"'\[\]{}]*""")  # a word, or a path


class Recipe(BaseModel):
    """A training recipe. Sources: paper (lr, betas, epochs, flip), its authors' configuration (the rest), or "ours"."""

    # The text below a field is what `ci2p recipes` says of it.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    model: str = "ci2p_vit_base"
    """One of ci2p's, or any VisionTransformer of timm's by its name: docs/models.md."""
    tokens: Literal[64, 256] = 64
    """What PatchReshape makes of 256 x 256 pixels: 64 tokens, the paper's, or 256 of a ci2p_vit of one scale, for about
    four times the operations. Ours."""
    class_token: bool = False
    """Whether a ci2p_vit of one scale classifies by a token of its own in place of the mean of all. This and the next
    three are off in the paper, and for searches."""
    registers: int = Field(0, ge=0, le=64)
    """Further tokens without a place that a ci2p_vit of one scale has (Darcet et al., "Vision Transformers Need
    Registers")."""
    pos_embed: Literal["none", "learn"] = "none"
    """A learned positional embedding of a ci2p_vit of one scale, which ties it to one image size."""
    layer_scale: float = Field(0.0, ge=0)
    """What the factors on the branches of a ci2p_vit of one scale begin with; 0 is none (Touvron et al., "Going deeper
    with Image Transformers": 1e-5; DeiT III: 1e-4)."""
    epochs: _Count = Field(300, ge=1)
    """How often each image is shown."""
    batch_size: _Count = Field(128, ge=1)
    """Samples per optimiser step, over all ranks together."""
    lr: float = Field(1e-4, gt=0)
    """The learning rate at its highest, after the warm-up."""
    min_lr: float = Field(1.25e-6, ge=0)
    """Where the cosine ends, or the decay of a constant schedule."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the rate does behind the warm-up: a cosine, the paper's, falls to the last epoch; a constant one stays, and
    its run is extended by the same command with more epochs."""
    decay_epochs: float = Field(0.0, ge=0)
    """Last epochs of a constant schedule, in which the rate falls linearly; the run can be extended until then (Hägele
    et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations")."""
    warmup_lr: float = Field(1e-6, ge=0)
    """Where the linear warm-up starts; ours, the paper gives none."""
    warmup_epochs: float = Field(PAPER_WARMUP_EPOCHS, ge=0)
    """Unless given: a fifteenth of the epochs, 20 at most, so that a short run keeps the paper's proportion; where the
    schedule is constant half an epoch."""
    optimizer: Literal["adamw", "muon", "nadamuon"] = "adamw"
    """timm's by these names. The last two orthogonalise the step of a matrix, scaled so that lr means what it means to
    AdamW, and leave the classifier and all that is no matrix to AdamW, or NAdamW (Jordan, "Muon"; Si et al.,
    "AdaMuon")."""
    betas: tuple[_Rate, _Rate] = (0.9, 0.999)
    """AdamW's; the first is Muon's momentum, the second AdaMuon's."""
    weight_decay: float = Field(0.05, ge=0)
    """On matrices and kernels only; biases and normalisation weights have none."""
    label_smoothing: _Rate = 0.1
    """Share of the probability that goes to the other classes."""
    drop_path: _Rate = 0.1
    """Stochastic depth of the last block; the blocks before it rise to it linearly."""
    mixup: float = Field(0.0, ge=0)
    """Alpha of the Beta distribution that says how two samples are blended; 0 is off, as in the paper (Zhang et al.,
    "mixup"; DeiT trains with 0.8)."""
    cutmix: float = Field(0.0, ge=0)
    """The same for a box of cells that one sample takes from another; 0 is off (Yun et al., "CutMix"; DeiT: 1.0)."""
    mixup_prob: float = Field(1.0, ge=0, le=1)
    """Share of the steps that mix at all, where mixup or cutmix is on. Names and meaning of these two are timm's."""
    switch_prob: float = Field(0.5, ge=0, le=1)
    """Share of the mixed steps that cutmix takes, where both are on."""
    erase: float = Field(0.0, ge=0, le=1)
    """Share of the samples that lose a rectangle of cells, set to zero; 0 is off (Zhong et al., "Random Erasing Data
    Augmentation", for its bounds too; DeiT: 0.25)."""
    token_drop: _Rate = 0.0
    """Share of the tokens behind PatchReshape that training leaves out, others each step; 0 is off (Liu et al.,
    "PatchDropout")."""
    window: _Count = Field(0, ge=0)
    """Side, in cells, of the part of the grid that the model reads: a random one in training, the central one in
    evaluation. For a cache of larger images than the model's; 0 reads all. Ours."""
    ema_decay: _Rate = 0.0
    """Of the exponential moving average of the weights, a step; 0 is off. Where it is on, it is the average that is
    evaluated and kept: every top-1 and `best.safetensors` are its own (Polyak and Juditsky; timm's, with its warm-up).
    """
    grad_clip: float = Field(0.0, ge=0)
    """Largest gradient norm; 0 is off, as in the paper."""
    flip: Literal["alternating", "none"] = "alternating"
    """Which view a sample shows: plain and mirrored in turn (the paper: a coin each time), or always the plain one."""
    pretrained: bool | str = False
    """Starts a timm model from timm's published weights, all but PatchReshape; a string names a file of them."""
    init_from: str = ""
    """A run, or the file of its weights, to start from; with a new head where the classes are others."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of the weights, the order, the views and all augmentation."""
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"] = "auto"
    """Of convolutions and matrix products; weights, optimiser and loss are float32 throughout. "auto" is float32 on a
    CPU, and on a GPU bfloat16, or float16 where it has no bfloat16; a run keeps what it was begun with."""
    compile: bool | Literal["reduce-overhead", "max-autotune-no-cudagraphs"] = False
    """Whether torch.compile makes the model quicker; a C++ compiler is needed. Or a mode of it: "reduce-overhead" has a
    GPU, one alone, replay a step as CUDA graphs, for small batches; the other tries more kernels out beforehand."""
    eval_every: _Count = Field(1, ge=1)
    """Epochs between evaluations; the last epoch is always evaluated."""
    checkpoint_every_minutes: float = Field(10.0, gt=0)
    """Minutes between checkpoints, wherever the epochs end; there is one at the end, too, at a stop, and after an epoch
    where the last one is twenty times as long ago as it takes to write."""
    checkpoint_every_steps: _Count = Field(0, ge=0)
    """Steps between checkpoints beside those of the clock, counted from the run's beginning; 0 leaves it to that."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_warmup(cls, values: Any) -> Any:
        if isinstance(values, dict) and "warmup_epochs" not in values:
            if values.get("schedule") == "constant":
                return {**values, "warmup_epochs": _CONSTANT_WARMUP_EPOCHS}
            try:  # as the field takes it: 30.0 is 30
                epochs = _EPOCHS.validate_python(values.get("epochs", cls.model_fields["epochs"].default))
            except ValidationError:
                pass
            else:
                epochs = max(0, min(epochs, _LONG_EPOCHS))  # before the division: an integer of any size may come
                return {**values, "warmup_epochs": min(PAPER_WARMUP_EPOCHS, epochs / _EPOCHS_PER_WARMUP_EPOCH)}
        return values

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs:g} leaves nothing of epochs = {self.epochs}; "
                f"give more epochs, a smaller warmup_epochs, or no warmup_epochs (it is then a part of the epochs)"
            )
        if self.decay_epochs and self.schedule != "constant":
            raise ValueError(
                f"decay_epochs = {self.decay_epochs:g} is of a constant schedule, and this one falls by a cosine from "
                'the warm-up on; give schedule = "constant" too, or no decay_epochs'
            )
        if self.decay_epochs > self.epochs - self.warmup_epochs:
            raise ValueError(
                f"decay_epochs = {self.decay_epochs:g} and warmup_epochs = {self.warmup_epochs:g} are more than "
                f"epochs = {self.epochs}; give more epochs, or fewer of the others"
            )
        if self.window % 2:
            raise ValueError(
                f"window = {self.window} does not halve into tokens of 2 x 2 cells; give an even side, "
                f"such as {self.window + 1}"
            )
        if self.init_from and self.pretrained:
            raise ValueError("init_from and pretrained both say what to start from; give one of them")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr = {self.min_lr:g} is above lr = {self.lr:g}; lower min_lr or raise lr")
        return self

    @property
    def epochs_at_peak(self) -> float:
        """Epochs until a constant schedule's rate begins to fall, in which its run can be extended."""
        return self.epochs - self.decay_epochs


def load_recipe(name_or_path: str | Path, overrides: Mapping[str, object] | None = None) -> Recipe:
    """Reads a packaged recipe by name or a TOML file by path, then lays `overrides` over it.

    An override of None counts as not given. Raises InputError, in one line, for a recipe that is not there or not TOML,
    for an unknown key (naming the nearest right one) and for a value out of bounds (naming field, value and bounds).
    """
    source, text = _read(name_or_path)
    try:
        values = _parse_toml(text)
    except ValueError as error:
        raise InputError(f"recipe {source} is not TOML: {error}") from None
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    try:
        return Recipe.model_validate({**values, **given})
    except ValidationError as error:
        raise InputError(_first_complaint(error, source, given)) from None


def parse_setting(text: str) -> tuple[str, object]:
    """Splits one `--set key=value`; the value is read as TOML, and a bare word or path as a string.

    Raises InputError when there is no `=` or the value is no single TOML value.
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key or not value:
        raise InputError(f"--set {text!r} is not of the form key=value, as in --set weight_decay=0.1")
    try:
        parsed = _parse_toml(f"value = {value}")
    except ValueError:
        if _BARE.fullmatch(value):
            return key, value
        raise InputError(
            f"--set {key}: {_shown(value)} is no TOML value; numbers are written 0.1, lists [0.9, 0.999]"
        ) from None
    if set(parsed) != {"value"}:
        raise InputError(f"--set {key}: {value!r} is more than one TOML value")
    return key, parsed["value"]


def recipe_names() -> list[str]:
    """The recipes that come with ci2p, in alphabetical order."""
    folder = resources.files("pipeline.recipes")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def recipe_text(name_or_path: str | Path) -> str:
    """The TOML of a recipe, comments and all. Raises InputError when there is none of that name."""
    return _read(name_or_path)[1]


@dataclass(frozen=True)
class Key:
    """A key of recipes."""

    name: str
    default: str
    """As TOML would have it."""
    meaning: str


def describe_keys() -> list[Key]:
    """Every key that a recipe may have, in the order of the class."""
    keys = []
    for name, field in Recipe.model_fields.items():
        default = field.get_default()
        text = str(default).lower() if isinstance(default, bool) else json.dumps(default)
        keys.append(Key(name, text, " ".join((field.description or "").split())))
    return keys


def _read(name_or_path: str | Path) -> tuple[str, str]:
    """Where the recipe lies, for messages, and its text."""
    name = str(name_or_path)
    if name in recipe_names():
        return name, (resources.files("pipeline.recipes") / f"{name}.toml").read_text(encoding="utf-8")
    if not os.path.lexists(os.path.expanduser(name)):  # noqa: PTH111  (Path's raises where there is no such user)
        nearest = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"known: {', '.join(recipe_names())}"
        raise InputError(f"recipe '{name}' is neither a file nor one of ci2p's; {hint}")
    return name, read_text(name, f"recipe {name}")


def _parse_toml(text: str) -> dict[str, Any]:
    """Raises ValueError for what is not TOML, with the line where there is one."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        last = text.rstrip().count("\n") + 1
        raise ValueError(str(error).replace("at end of document", f"at the end, line {last}")) from None
    except ValueError:
        raise ValueError("it holds a number of thousands of digits") from None


def _shown(value: object) -> str:
    """A value as it may stand in a message: on one line, and not for pages."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits, which Python does not write out
        return "a number of thousands of digits"
    except RecursionError:
        return "a value that is nested too deeply"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _first_complaint(error: ValidationError, source: str, given: Mapping[str, object]) -> str:
    """One line from pydantic's list: an unknown key first, since a misspelling is the likeliest cause of the rest."""
    complaints = sorted(error.errors(), key=lambda complaint: complaint["type"] != "extra_forbidden")
    complaint = complaints[0]
    if not complaint["loc"]:
        return f"recipe {source}: {complaint['msg'].removeprefix('Value error, ')}"
    key = str(complaint["loc"][0])
    where = f"given for recipe {source}" if key in given else f"in recipe {source}"
    if complaint["type"] == "extra_forbidden":
        keys = list(Recipe.model_fields)
        nearest = difflib.get_close_matches(key, keys, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"known keys: {', '.join(keys)}"
        return f"unknown key {_shown(key)} {where}; {hint}"
    field = key + "".join(f"[{part}]" for part in complaint["loc"][1:])
    message = complaint["msg"][:1].lower() + complaint["msg"][1:]
    return f"{field} = {_shown(complaint['input'])} {where}: {message}"
