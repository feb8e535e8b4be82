"""What a shell offers when tab is pressed: recipes, models, caches under caches/, runs under runs/; and always files.

It is asked at every press of the key, so that nothing here imports torch or opens a file.
"""

from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path

import click
from click.shell_completion import CompletionItem

# The names that `models.model_names` and `models.baseline_names` give, for which torch and timm would be imported.
MODELS = ("ci2p_vit_base", "ci2p_vit_ds", "ci2p_vit_large", "ci2p_vit_small", "ci2p_vit_tiny")
BASELINES = (
    *("cnn_vit", "cnn_vit_tiny", "resnet18", "resnet50d"),
    *("vit_base", "vit_base_p32", "vit_small", "vit_tiny", "vit_tiny_p32"),
)

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def recipe_names(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return _beginning(begun, _recipes())


def recipes(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return _files(begun) + _beginning(begun, _recipes())


def models(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return _beginning(begun, MODELS)


def baselines(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return _beginning(begun, BASELINES)


def all_models(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return _beginning(begun, MODELS + BASELINES)


def caches(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return _files(begun) + _beginning(begun, _caches())


def runs(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return _files(begun) + _beginning(begun, _runs())


def caches_and_runs(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return _files(begun) + _beginning(begun, [*_caches(), *_runs()])


def _recipes() -> list[str]:
    names = [entry.name for entry in resources.files("pipeline.recipes").iterdir()]
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def _caches() -> list[str]:
    return _folders("caches/*/*/spec.json", 2)


def _runs() -> list[str]:
    return _folders("runs/*/config.json", 1)


def _folders(pattern: str, above: int) -> list[str]:
    """Folders so far above a file that the pattern finds."""
    return sorted({str(file.parents[above - 1]) for file in Path().glob(pattern)})


def _beginning(begun: str, names: Iterable[str]) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(begun)]


def _files(begun: str) -> list[CompletionItem]:
    """That the shell offers files besides; it comes first, for in bash it clears what came before."""
    return [CompletionItem(begun, type="file")]
