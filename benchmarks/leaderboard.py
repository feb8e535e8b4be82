"""The leaderboard: docs/leaderboard.json as the table of docs/leaderboard.md, and the chosen rows of it in README.md.

    python benchmarks/leaderboard.py
    python benchmarks/leaderboard.py --add runs/a-0 runs/a-1 runs/a-2 --data 'Imagenette, 128 px' --recipe best

A row is added by its data alone: by hand in the JSON, or from the run folders of one training's seeds. Everything else
is written by this script, and a test holds the pages to it.
"""

import argparse
import json
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from commands import DOCS, ROOT
from seeds import mean_and_deviation

from ci2p_cache.publish import publish
from pipeline.train.metrics_log import read_metrics
from pipeline.train.run_folder import RunConfig, read_config

DATA = DOCS / "leaderboard.json"
BEGIN, END = "<!-- leaderboard: python benchmarks/leaderboard.py -->", "<!-- /leaderboard -->"
_HEADINGS = ("", "model", "data", "epochs", "top-1, %", "n", "minutes a run", "recipe", "commit", "machine", "source")
_IN_README = ("model", "data", "epochs", "top-1, %", "n", "minutes a run")


@dataclass(frozen=True)
class Row:
    """One model, trained in one way; the first row of the table is the paper's."""

    model: str
    data: str
    """Data set and image size."""
    epochs: int
    top1: tuple[float, ...]
    """In percent, of the last epoch, one a seed; of others the one figure that they give."""
    n: int | None = None
    """How many runs others' figure is the mean of; None where they do not say, and where `top1` has all."""
    minutes: float | None = None
    """A training took, without encoding."""
    recipe: str = ""
    commit: str = ""
    machine: str = ""
    source: str = ""
    ours: bool = True
    in_readme: bool = False

    @property
    def accuracy(self) -> str:
        """The mean, and with several seeds of ours the standard deviation."""
        return mean_and_deviation(self.top1)

    @property
    def runs(self) -> str:
        count = len(self.top1) if self.ours else self.n
        return "not said" if count is None else str(count)

    def cells(self, number: int) -> tuple[str, ...]:
        minutes = "" if self.minutes is None else f"{self.minutes:.0f}"
        return (
            *(str(number), self.model, self.data, str(self.epochs), self.accuracy, self.runs, minutes),
            *(self.recipe, self.commit, self.machine, self.source),
        )


def read_rows(path: Path = DATA) -> list[Row]:
    return [Row(**(fields | {"top1": tuple(fields["top1"])})) for fields in json.loads(path.read_text())]


def row_of_runs(runs: Sequence[Path], data: str, recipe: str, commit: str, source: str) -> Row:
    """The row of one training's seeds. Ends where the runs are not of one training, or one is not finished."""
    configs = [read_config(run) for run in runs]
    if len({_without_seed(config) for config in configs}) != 1 or len({c.recipe.seed for c in configs}) != len(runs):
        raise SystemExit("these runs differ in more than their seed, or not in their seed")
    lines = [read_metrics(run) for run in runs]
    for run, config, metrics in zip(runs, configs, lines, strict=True):
        if len(metrics) != config.recipe.epochs:
            raise SystemExit(f"{run} has {len(metrics)} of its {config.recipe.epochs} epochs behind it")
    return Row(
        model=configs[0].recipe.model,
        data=data,
        epochs=configs[0].recipe.epochs,
        top1=tuple(round(100 * metrics[-1]["val_top1"], 2) for metrics in lines),
        minutes=round(statistics.fmean(sum(line["seconds"] for line in metrics) for metrics in lines) / 60, 1),
        recipe=recipe,
        commit=commit,
        machine=configs[0].machine,
        source=source,
    )


def _without_seed(config: RunConfig) -> str:
    return json.dumps([config.recipe.model_dump(mode="json") | {"seed": 0}, config.data.fingerprint])


def table(rows: Sequence[Row], headings: Sequence[str]) -> str:
    chosen = [_HEADINGS.index(heading) for heading in headings]
    lines = [[row.cells(number)[place] for place in chosen] for number, row in enumerate(rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(chosen), *lines))


def page(text: str, rows: Sequence[Row]) -> str:
    """docs/leaderboard.md with its table renewed."""
    return _between(text, table(rows, _HEADINGS))


def readme(text: str, rows: Sequence[Row]) -> str:
    """README.md with its table renewed."""
    return _between(text, table([row for row in rows if row.in_readme], _IN_README))


def _between(text: str, written: str) -> str:
    head, _, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert end, f"{BEGIN} ... {END} is missing"
    return f"{head}{BEGIN}\n\n{written}\n\n{END}{tail}"


def dump(rows: Sequence[Row]) -> str:
    defaults = asdict(Row("", "", 0, ()))
    kept: list[dict[str, Any]] = [
        {key: value for key, value in asdict(row).items() if value != defaults[key]} for row in rows
    ]
    return json.dumps(kept, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--add", type=Path, nargs="+", metavar="RUN", help="run folders, one a seed")
    parser.add_argument("--data", help="of what is added: data set and image size")
    parser.add_argument("--recipe", default="", help="of what is added: its recipe's name, or what was set")
    parser.add_argument("--commit", help="of what is added: that it was trained with; by default the one checked out")
    parser.add_argument("--source", default="", help="of what is added: where more stands of it")
    arguments = parser.parse_args()
    rows = read_rows()
    if arguments.add:
        if not arguments.data:
            parser.error("--add needs --data, such as 'Imagenette, 128 px'")
        commit = arguments.commit or _checked_out()
        rows.insert(
            sum(row.ours for row in rows) + 1,
            row_of_runs(arguments.add, arguments.data, arguments.recipe, commit, arguments.source),
        )
        publish(DATA, dump(rows).encode())
    for file, renewed in ((DOCS / "leaderboard.md", page), (ROOT / "README.md", readme)):
        publish(file, renewed(file.read_text(encoding="utf-8"), rows).encode())
    print(table(rows, _HEADINGS))


def _checked_out() -> str:
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
