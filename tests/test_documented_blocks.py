"""Every block of code in the pages runs, as it stands, in a folder of pictures; or the page says why it does not.

A block that is not run has a line before it: `<!-- not run: why -->`. One in no language is output or a drawing: text.
The environment makes what runs small; what a page gives itself, it gets.
"""

import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from docs.pages import pages
from tests.conftest import REPOSITORY, call_ci2p, write_image

LANGUAGES = {"python", "sh", "text", "toml"}
NEEDS = {"report.md": ("jinja2", "matplotlib")}
RUN_ELSEWHERE = {"python.md": "tests/test_python_page.py", "format.md": "tests/test_format.py"}
_BLOCK = re.compile(r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
_SMALL = {
    "CI2P_ENCODE_IMAGE_SIZE": "32",
    "CI2P_BASELINE_IMAGE_SIZE": "32",
    "CI2P_TRAIN_EPOCHS": "1",
    "CI2P_BASELINE_EPOCHS": "1",
    "CI2P_TRAIN_COMPILE": "false",
    "CI2P_TRAIN_PRECISION": "float32",
}
_SMALL |= {f"CI2P_{command}_DEVICE": "cpu" for command in ("ENCODE", "TRAIN", "BASELINE", "EVAL", "PREDICT", "INSPECT")}
_SMALL |= {f"CI2P_{command}_WORKERS": "0" for command in ("ENCODE", "BASELINE", "PREDICT")}


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    code: str
    why_not: str | None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    assert len(re.findall(r"^\s*```", text, re.M)) == 2 * len(found), f"{page.name}: a block that is not understood"
    return [
        Block(1 + text.count("\n", 0, one.start("code")), one["language"], one["code"], one["why"]) for one in found
    ]


ALL = [REPOSITORY / "AGENTS.md", *pages()]
RUN = [
    page
    for page in ALL
    if page.name not in RUN_ELSEWHERE
    and any(block.language in ("python", "sh") and not block.why_not for block in blocks_of(page))
]


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_a_block_says_what_it_is(page: Path) -> None:
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{page.name}:{block.line}: {block.language!r} is none of {LANGUAGES}"
        assert block.language in ("python", "sh") or not block.why_not, f"{page.name}:{block.line}: nobody would run it"


def test_the_pages_run() -> None:
    assert {"README.md", "tutorial.md", "your-images.md", "training.md", "your-loop.md"} <= {page.name for page in RUN}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures/CLASS/x.png, their cache and a run."""
    folder = tmp_path_factory.mktemp("home")
    for label, name in enumerate(("cats", "dogs", "horses")):
        for number in range(4):
            write_image(folder / "pictures" / name / f"{number:03d}.png", 100 * label + number)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _SMALL.items():
            patch.setenv(name, value)
        call("ci2p encode --dataset folder --data-dir pictures", folder)
        call("ci2p train caches/pictures --recipe quick --out runs/pictures", folder)
    return folder


def call(line: str, folder: Path) -> None:
    """A line of a shell that is a command of ci2p's, with what it sets in the environment before it."""
    words = shlex.split(line, comments=True)
    place = words.index("ci2p") if "ci2p" in words else 0
    given = dict(word.split("=", 1) for word in words[:place])
    assert words[place] == "ci2p", f"not run by the test of the pages: {line}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        done = call_ci2p(*words[place + 1 :], cwd=folder)
    assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_a_page_runs(page: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in NEEDS.get(page.name, ()):
        pytest.importorskip(package)
    shutil.copytree(home / "pictures", tmp_path / "pictures")
    if page.name not in ("README.md", "tutorial.md"):  # these two begin with pictures alone
        shutil.copytree(home / "caches", tmp_path / "caches")
        shutil.copytree(home / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    for name, value in _SMALL.items():
        monkeypatch.setenv(name, value)
    names: dict[str, object] = {}
    for block in blocks_of(page):
        if block.why_not or block.language not in ("python", "sh"):
            continue
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.code, os.fspath(page), "exec"), names)
        else:
            for line in filter(None, block.code.replace("\\\n", " ").splitlines()):
                call(line, tmp_path)
