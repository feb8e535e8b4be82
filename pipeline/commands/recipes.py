"""`ci2p recipes`: which there are, what they say, a copy to change, and what each key means."""

from pathlib import Path

import click

from ci2p_cache.errors import InputError
from ci2p_cache.printable import counted
from pipeline.commands import completion
from pipeline.commands.command import Command
from pipeline.commands.local_path import LocalPath


@click.group(invoke_without_command=True, short_help="The recipes, and what their keys mean.")
@click.pass_context
def recipes(context: click.Context) -> None:
    """The recipes that come with ci2p, and the keys that a recipe may have.

    A recipe is a TOML file; `ci2p train --recipe` takes a name or a file, and --set KEY=VALUE changes one key of it.
    """
    if context.invoked_subcommand is not None:
        return
    from pipeline.train.recipe import describe_keys, load_recipe, recipe_names

    names = recipe_names()
    for name in names:
        recipe = load_recipe(name)
        click.echo(
            f"{name:<{max(map(len, names))}}  {recipe.model}, {counted(recipe.epochs, 'epoch')} of {recipe.batch_size}"
        )
    click.echo("\nKeys, their defaults and meaning:")
    formatter = click.HelpFormatter(width=click.get_current_context().terminal_width or None)
    formatter.write_dl([(f"{key.name} = {key.default}", key.meaning) for key in describe_keys()])
    click.echo(formatter.getvalue().rstrip())


@recipes.command(cls=Command, short_help="Print a recipe, comments and all.")
@click.argument("name", shell_complete=completion.recipe_names)
def show(name: str) -> None:
    """Print a recipe: its comments say what command it is for and what it reached."""
    from pipeline.train.recipe import recipe_text

    click.echo(recipe_text(name).rstrip())


@recipes.command(cls=Command)
@click.argument("name", shell_complete=completion.recipe_names)
@click.argument("file", type=LocalPath())
def copy(name: str, file: Path) -> None:
    """Write a recipe to FILE, to change it there."""
    from ci2p_cache.publish import publish
    from pipeline.train.recipe import recipe_text

    text = recipe_text(name)
    if file.exists() or file.is_symlink():
        raise InputError(f"{file} exists already; give another name, or remove it")
    publish(file, text.encode())
    click.echo(f"{file}: change it, then ci2p train --recipe {file} ...")
