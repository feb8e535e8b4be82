"""What a shell offers at the tab key."""

import json
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

import cli
from pipeline.commands.completion import BASELINES, MODELS
from tests.conftest import run_ci2p, run_python


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with caches and a run, and one of each that is none."""
    for file in ("caches/cats/train/spec.json", "caches/dogs/val/spec.json", "runs/first/config.json"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("{}")
    for folder in ("caches/notes/train", "runs/empty"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(*words: str) -> list[str]:
    """What is offered for the last word; without the entry that has the shell offer files."""
    shell = ShellComplete(cli.main, {}, "ci2p", "_CI2P_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1]) if item.type == "plain"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", ""), ["caches/cats", "caches/dogs"]),
        (("train", "--shards", "caches/d"), ["caches/dogs"]),
        (("verify", "ca"), ["caches/cats", "caches/dogs"]),
        (("convert", "caches/c"), ["caches/cats"]),
        (("encode", "--out", ""), ["caches/cats", "caches/dogs"]),
        (("inspect", ""), ["caches/cats", "caches/dogs", "runs/first"]),
        (("eval", ""), ["runs/first"]),
        (("eval", "--shards", ""), ["caches/cats", "caches/dogs"]),
        (("predict", "--checkpoint", "r"), ["runs/first"]),
        (("export", ""), ["runs/first"]),
        (("train", "--init-from", ""), ["runs/first"]),
        (("train", "--recipe", "paper"), ["paper-animals10", "paper-imagenet"]),
        (("recipes", "show", "b"), ["best"]),
        (("recipes", "copy", "q"), ["quick"]),
        (("train", "--model", "ci2p_vit_s"), ["ci2p_vit_small"]),
        (("baseline", "--model", "cnn"), ["cnn_vit", "cnn_vit_tiny"]),
        (("complexity", "--model", "vit_tiny"), ["vit_tiny", "vit_tiny_p32"]),
        (("train", "--resid"), ["--resident"]),
        (("ver",), ["verify"]),
    ],
)
@pytest.mark.usefixtures("home")
def test_names_are_offered(words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(*words) == expected


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "words", [("train",), ("eval",), ("train", "--recipe"), ("train", "--init-from"), ("inspect",)]
)
def test_files_are_offered_besides(words: tuple[str, ...]) -> None:
    shell = ShellComplete(cli.main, {}, "ci2p", "_CI2P_COMPLETE")
    assert [(item.type, item.value) for item in shell.get_completions(list(words), "mine/x")] == [("file", "mine/x")]


def test_the_models_are_all_that_there_are() -> None:
    from pipeline.models import baseline_names, model_names

    assert list(MODELS) == model_names() and sorted(BASELINES) == baseline_names()


def test_every_name_of_a_cache_a_run_or_a_model_is_completed() -> None:
    names = {"cache", "source", "run", "shards", "model", "models", "checkpoint", "init_from", "recipe"}
    for command in cli.main.commands.values():
        for parameter in command.params:
            if parameter.name in names:
                assert parameter._custom_shell_complete is not None, (command.name, parameter.name)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_is_told_by_one_line(shell: str, tmp_path: Path) -> None:
    written = run_ci2p(cwd=tmp_path, _CI2P_COMPLETE=f"{shell}_source")
    assert written.returncode == 0 and f"_CI2P_COMPLETE={shell}_complete" in written.stdout


def test_a_shell_that_asks_is_answered_without_torch(home: Path) -> None:
    """As the script of bash asks."""
    program = (
        "import json, sys\n"
        "import cli\n"
        "try:\n"
        "    cli.main(prog_name='ci2p')\n"
        "finally:\n"
        "    print(json.dumps(sorted({'torch', 'timm', 'numpy'} & set(sys.modules))))\n"
    )
    asked = {"_CI2P_COMPLETE": "bash_complete", "COMP_WORDS": "ci2p train caches/d", "COMP_CWORD": "2"}
    answered = run_python("-c", program, cwd=home, **asked)
    *lines, imported = answered.stdout.splitlines()
    assert lines == ["file,caches/d", "plain,caches/dogs"] and json.loads(imported) == []
