"""The options that make up a recipe, and the recipe that they make."""

import re
from typing import Any

import click

from pipeline.commands import completion
from pipeline.commands.local_path import LocalPath
from pipeline.commands.options import device_option, json_option, max_minutes_option


class Settings(click.types.StringParamType):
    """KEY=VALUE, several of which the environment gives with blanks between them; a value may hold blanks, too."""

    def split_envvar_value(self, rv: str) -> list[str]:
        return re.split(r"\s+(?=[A-Za-z_]+\s*=)", rv.strip())


def recipe_options(command: Any) -> Any:
    """What `train` and `baseline` share: everything that makes up the recipe, and where and how long it runs."""
    options = [
        click.option(
            "--recipe",
            default="paper-animals10",
            show_default=True,
            metavar="NAME|FILE",
            shell_complete=completion.recipes,
            help="Every setting there is; `ci2p recipes` lists them.",
        ),
        click.option(
            "--out",
            type=LocalPath("a run is written on a file system: give a folder"),
            metavar="RUN",
            help="Default: runs/MODEL-DATA-SEED.",
        ),
        click.option("--epochs", type=int, help="Times through the training images. Default: the recipe's."),
        click.option(
            "--batch-size", type=int, help="Images a step, over all processes together. Default: the recipe's."
        ),
        click.option("--lr", type=float, help="Peak learning rate. Default: the recipe's."),
        click.option("--seed", type=int, help="Of weights, order and augmentation. Default: the recipe's."),
        click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "tf32", "bfloat16", "float16"]),
            help="auto: bfloat16 on a GPU, float32 on a CPU. Default: the recipe's.",
        ),
        click.option(
            "--compile/--no-compile", default=None, help="torch.compile the model, or not. Default: the recipe's."
        ),
        click.option(
            "--set",
            "settings",
            type=Settings(),
            multiple=True,
            metavar="KEY=VALUE",
            help="Anything else in the recipe.",
        ),
        device_option,
        max_minutes_option,
        click.option(
            "--logger",
            type=click.Choice(["mlflow", "trackio", "wandb"]),
            multiple=True,
            help="Log every epoch there too; may be repeated.",
        ),
        click.option(
            "--pictures/--no-pictures",
            default=True,
            show_default=True,
            help="Leave curves.png and confusion.png in the run, where matplotlib is.",
        ),
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def resolve_recipe(recipe: str, settings: tuple[str, ...], overrides: dict[str, Any]) -> Any:
    """The recipe of a name or file, with --set and the options that were given laid over it."""
    from pipeline.train.recipe import load_recipe, parse_setting

    given = {key: value for key, value in overrides.items() if value is not None}
    return load_recipe(recipe, dict(map(parse_setting, settings)) | given)
