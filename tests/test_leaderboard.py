"""The leaderboard's pages hold what docs/leaderboard.json says, and a row comes of run folders."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.benchmark_scripts import benchmark_script
from tests.conftest import REPOSITORY
from tests.toy_training import train_toy


@pytest.fixture(scope="module")
def board() -> Iterator[Any]:
    with benchmark_script("leaderboard") as module:
        yield module


def test_the_pages_are_those_of_the_data(board: Any) -> None:
    rows = board.read_rows()
    for file, renewed in (("docs/leaderboard.md", board.page), ("README.md", board.readme)):
        text = (REPOSITORY / file).read_text(encoding="utf-8")
        assert renewed(text, rows) == text, f"{file} is not what docs/leaderboard.json says: {board.BEGIN[5:-4]}"
    assert not rows[0].ours and rows[0].top1 == (92.37,) and "paper" in rows[0].model
    assert board.dump(rows) == (REPOSITORY / "docs/leaderboard.json").read_text(encoding="utf-8")


def test_every_row_of_ours_says_where_it_comes_from(board: Any) -> None:
    for row in board.read_rows():
        assert row.source and row.runs
        assert not row.ours or (row.recipe and row.commit and row.machine and row.minutes), row


def test_seeds_of_one_training_are_a_row(board: Any, whole_run: Path, tmp_path: Path) -> None:
    runs = [whole_run, tmp_path / "other"]
    train_toy(runs[1], seed=1)
    row = board.row_of_runs(runs, "a toy, 64 px", "toy", "0123456", "nowhere")
    assert (row.model, row.epochs, row.runs, row.ours) == ("ci2p_vit_tiny", 3, "2", True) and row.machine
    assert replace(row, top1=(70.0, 72.0)).accuracy == "71.00 ± 1.41"
    with pytest.raises(SystemExit, match="differ in more than their seed, or not in their seed"):
        board.row_of_runs([whole_run, whole_run], "a toy", "toy", "0123456", "nowhere")
