"""Runs by their settings: those that differ in nothing but the seed belong together, and are told apart from others."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.run_record import RunRecord
from pipeline.train.recipe import Recipe
from pipeline.train.run_folder import FREE_FIELDS

_SEED = "seed"
_MOST_NAMED = 4  # settings in a label


@dataclass(frozen=True)
class Setting:
    """Runs of one recipe on one cache, by seed."""

    label: str
    runs: tuple[RunRecord, ...]

    @property
    def legend(self) -> str:
        """The label, with how many runs its mean is of: those that have finished an epoch."""
        count = sum(bool(run.lines) for run in self.runs)
        return f"{self.label} (mean of n = {count})" if count > 1 else self.label


def group_by_setting(runs: Sequence[RunRecord]) -> list[Setting]:
    """Every run once, in the order of the first of each setting; labels say what differs."""
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_identity(run), sort_keys=True), []).append(run)
    firsts = [members[0] for members in groups.values()]
    labels = [_label(run, firsts) for run in firsts]
    return [
        Setting(label if labels.count(label) == 1 else f"{label}, {members[0].name}", tuple(members))
        for label, members in zip(labels, groups.values(), strict=True)
    ]


def _identity(run: RunRecord) -> list[Any]:
    data = run.config.data
    excluded = {_SEED, *FREE_FIELDS}
    recipe = run.config.recipe.model_dump(mode="json", exclude=excluded)
    return [recipe, data.fingerprint, data.classes, data.input_shape]


def _label(run: RunRecord, others: Sequence[RunRecord]) -> str:
    """The model, and whatever differs among the settings."""
    recipes = [other.config.recipe for other in others]
    fields = [name for name in Recipe.model_fields if name not in (_SEED, "model", *FREE_FIELDS)]
    differing = [name for name in fields if len({str(getattr(recipe, name)) for recipe in recipes}) > 1]
    if {"epochs", "warmup_epochs"} <= set(differing):  # the one follows from the other
        differing.remove("warmup_epochs")
    parts = [run.config.recipe.model]
    parts += [f"{name} {shown(getattr(run.config.recipe, name))}" for name in differing[:_MOST_NAMED]]
    if len({other.config.data.fingerprint for other in others}) > 1:
        parts.append(data_name(run))
    return ", ".join(parts)


def data_name(run: RunRecord) -> str:
    """The last name of where a run's data lie."""
    path = run.config.data.path.rstrip("/")
    return path.rpartition("/")[2] or path


def shown(value: Any) -> str:
    """A setting's value, for people."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(shown, value)) if isinstance(value, list | tuple) else str(value)
