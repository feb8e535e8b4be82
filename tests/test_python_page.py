"""docs/python.md, run as it stands: every block, one after another, in a folder that holds some images."""

import os
import re
from pathlib import Path

import pytest

from tests.conftest import CLASSES, REPOSITORY, write_image

PAGE = REPOSITORY / "docs" / "python.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.chdir(tmp_path)
    for label, name in enumerate(CLASSES):
        for number in range(8):
            write_image(tmp_path / "imgs" / name / f"{number:03d}.png", 100 * label + number)
    names: dict[str, object] = {}
    assert len(BLOCKS) >= 9
    for block in BLOCKS:
        line = PAGE.read_text(encoding="utf-8").partition(block)[0].count("\n")
        code = compile("\n" * line + block, os.fspath(PAGE), "exec")
        exec(code, names)
