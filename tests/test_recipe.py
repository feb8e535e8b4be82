"""Recipes: the paper's values, what overrides what, and one-line refusals."""

import os
from pathlib import Path

import pytest

from ci2p_cache.errors import InputError
from pipeline.train.recipe import Recipe, load_recipe, parse_setting, recipe_names


def test_defaults_are_the_paper_s() -> None:
    recipe = Recipe()
    assert (recipe.model, recipe.epochs, recipe.batch_size) == ("ci2p_vit_base", 300, 128)
    assert (recipe.lr, recipe.min_lr, recipe.betas, recipe.weight_decay) == (1e-4, 1.25e-6, (0.9, 0.999), 0.05)
    assert (recipe.label_smoothing, recipe.drop_path, recipe.warmup_epochs) == (0.1, 0.1, 20.0)
    assert (recipe.grad_clip, recipe.flip, recipe.precision) == (0.0, "alternating", "auto")
    assert (recipe.mixup, recipe.cutmix, recipe.erase, recipe.token_drop, recipe.window, recipe.ema_decay) == (0,) * 6


def test_packaged_recipes_load_and_state_their_command() -> None:
    assert {"authors-animals10", "best", "paper-animals10", "paper-imagenet", "quick"} <= set(recipe_names())
    for name in recipe_names():
        load_recipe(name)
        text = (Path("pipeline/recipes") / f"{name}.toml").read_text()
        comments = [line for line in text.splitlines() if line.startswith("#")]
        assert any("train --shards" in line and f"--recipe {name}" in line for line in comments), name


def test_the_paper_s_recipe_is_the_defaults() -> None:
    assert load_recipe("paper-animals10") == Recipe()


@pytest.mark.parametrize(("epochs", "warmup_epochs"), [(1, 1 / 15), (5, 1 / 3), (150, 10.0), (300, 20.0), (800, 20.0)])
def test_warmup_follows_the_epochs_until_it_is_given(epochs: int, warmup_epochs: float) -> None:
    assert load_recipe("paper-animals10", {"epochs": epochs}).warmup_epochs == pytest.approx(warmup_epochs)
    assert load_recipe("paper-animals10", {"epochs": epochs, "warmup_epochs": 0.5}).warmup_epochs == 0.5


@pytest.mark.parametrize("epochs", [30, 30.0, "30", 3e1])
def test_the_warmup_is_that_of_the_epochs_however_they_are_written(epochs: object) -> None:
    recipe = load_recipe("paper-animals10", {"epochs": epochs})
    assert (recipe.epochs, recipe.warmup_epochs) == (30, 2.0)
    for wrong in (30.5, "thirty", [30]):
        with pytest.raises(InputError, match=r"^epochs = .* given for recipe paper-animals10: input should be"):
            load_recipe("paper-animals10", {"epochs": wrong})


def test_a_warmup_that_leaves_nothing_is_refused_with_both_values() -> None:
    with pytest.raises(InputError, match=r"warmup_epochs = 20 leaves nothing of epochs = 5; give more epochs") as info:
        load_recipe("paper-animals10", {"epochs": 5, "warmup_epochs": 20})
    assert "\n" not in str(info.value)


def test_a_written_recipe_survives_being_read_back() -> None:
    recipe = load_recipe("quick", {"seed": 3})
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_overrides_win_and_none_is_not_given(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("lr = 3e-4\nseed = 7\n")
    recipe = load_recipe(file, {"seed": 9, "epochs": None})
    assert (recipe.lr, recipe.seed, recipe.epochs) == (3e-4, 9, 300)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epohcs = 3", r"^unknown key 'epohcs' in recipe .*mine\.toml; did you mean 'epochs'\?$"),
        ("zzzzzz = 3", r"^unknown key 'zzzzzz' in recipe .*; known keys: model, tokens, "),
        ("lr = -1.0", r"^lr = -1\.0 in recipe .*mine\.toml: input should be greater than 0$"),
        ("lr = inf", r"^lr = inf in recipe .*: input should be a finite number$"),
        ("label_smoothing = 1.0", r"^label_smoothing = 1\.0 .*: input should be less than 1$"),
        (
            "window = 15",
            r"^recipe .*: window = 15 does not halve into tokens of 2 x 2 cells; give an even side, such as 16$",
        ),
        ("token_drop = 1.0", r"^token_drop = 1\.0 .*: input should be less than 1$"),
        ("flip = 'random'", r"^flip = 'random' .*: input should be 'alternating' or 'none'$"),
        ("precision = 'fp16'", r"^precision = 'fp16' .*'auto', 'float32', 'tf32', 'bfloat16' or 'float16'$"),
        ("betas = [0.9, 1.5]", r"^betas\[1\] = 1\.5 in recipe .*: input should be less than 1$"),
        ("epochs = 'many'", r"^epochs = 'many' in recipe .*integer"),
        (
            "decay_epochs = 2",
            r"^recipe .*: decay_epochs = 2 is of a constant schedule.* give schedule = \"constant\" too",
        ),
        (
            "schedule = 'constant'\ndecay_epochs = 300",
            r"decay_epochs = 300 and warmup_epochs = 0\.5 are more than epochs",
        ),
        ("min_lr = 1.0", r"^recipe .*: min_lr = 1 is above lr = 0\.0001; lower min_lr or raise lr$"),
        ("epochs = = 3", r"^recipe .*mine\.toml is not TOML: "),
        (
            "lr = 1e-4\nlr = 2e-4",
            r"^recipe .*mine\.toml is not TOML: Cannot overwrite a value \(at line 2, column 10\)$",
        ),
        ("lr = 1e-4\nbetas = [0.9,", r"^recipe .* is not TOML: .* \(at the end, line 2\)$"),
        ("x = " + "[" * 5000, r"^recipe .*mine\.toml is not TOML: it is nested too deeply$"),
        ("x = " + "{a=" * 5000, r"^recipe .*mine\.toml is not TOML: it is nested too deeply$"),
        ("epochs = " + "9" * 5000, r"^recipe .*mine\.toml is not TOML: it holds a number of thousands of digits$"),
        ("epochs = 1" + "0" * 400, r"^epochs = 10{79}\.\.\. in recipe .*: input should be less than 2147483648$"),
        (
            "window = 0x" + "f" * 5000,
            r"^window = a number of thousands of digits in recipe .*: input should be less than",
        ),
        ("model = 3\n", r"^model = 3 in recipe .*: input should be a valid string$"),
        ('"a\\nb" = 1', r"^unknown key 'a\\nb' in recipe .*; known keys: "),
    ],
)
def test_refusals_are_one_line_with_field_value_and_bounds(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text + "\n")
    with pytest.raises(InputError, match=message) as info:
        load_recipe(file)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbflr = 3e-4\r\nflip = 'none'\r\n\r\n \r\n",
        b"lr = 3e-4\rflip = 'none'\r",
        "lr = 3e-4\r\nflip = 'none'".encode("utf-16"),
    ],
)
def test_a_recipe_is_read_however_an_editor_saved_it(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "mine.toml").write_bytes(data)
    assert load_recipe(tmp_path / "mine.toml") == Recipe(lr=3e-4, flip="none")


def test_files_that_are_no_recipe_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "latin.toml").write_bytes("lr = 3e-4\n# f\xfcr mich\n".encode("latin-1"))
    (tmp_path / "mine.toml").write_text("lr = 3e-4")
    os.mkfifo(tmp_path / "pipe.toml")
    assert load_recipe("~/mine.toml").lr == 3e-4
    for name, message in (
        ("~/latin.toml", "recipe ~/latin.toml, line 2: byte 0xfc is not UTF-8; save the file as UTF-8"),
        ("~/pipe.toml", "recipe ~/pipe.toml is no regular file; give a text file"),
        ("~", "recipe ~ is a folder; give a text file"),
        ("~/mine.toml/x", "recipe '~/mine.toml/x' is neither a file nor one of ci2p's; known: "),
        ("~nosuchuser/mine.toml", "recipe '~nosuchuser/mine.toml' is neither a file nor one of ci2p's; known: "),
    ):
        with pytest.raises(InputError) as caught:
            load_recipe(name)
        assert str(caught.value).startswith(message)


def test_a_misspelt_override_is_told_apart_from_the_file_s() -> None:
    with pytest.raises(InputError, match=r"^unknown key 'wieght_decay' given for recipe quick; did you mean 'weight_d"):
        load_recipe("quick", {"wieght_decay": 0.1})


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'paper-animals' is neither .*; did you mean 'paper-animals10'\?"):
        load_recipe("paper-animals")
    with pytest.raises(InputError, match=r"'no/such.toml' is neither .*; known: authors-animals10, best, paper"):
        load_recipe("no/such.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("weight_decay=0.1", ("weight_decay", 0.1)),
        ("betas=[0.9, 0.95]", ("betas", [0.9, 0.95])),
        ("compile=true", ("compile", True)),
        ("flip=none", ("flip", "none")),
        ('flip = "none"', ("flip", "none")),
        ("model=vit_small_patch16_224.augreg", ("model", "vit_small_patch16_224.augreg")),
        ("pretrained=weights/vit 2.pth", ("pretrained", "weights/vit 2.pth")),
        ("pretrained=/data/vit.pth", ("pretrained", "/data/vit.pth")),
        ("pretrained=../vit=1,2.pth", ("pretrained", "../vit=1,2.pth")),
        ("pretrained=~/vit.pth", ("pretrained", "~/vit.pth")),
        ("pretrained=C:\\vit.pth", ("pretrained", "C:\\vit.pth")),
    ],
)
def test_settings_are_toml_values(text: str, expected: tuple[str, object]) -> None:
    assert parse_setting(text) == expected


@pytest.mark.parametrize("text", ["lr", "=3", "lr=", "lr=1e", "lr=1\nseed=2", "betas=[0.9", "x=" + "[" * 5000])
def test_settings_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_setting(text)
