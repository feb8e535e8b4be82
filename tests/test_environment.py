"""Options from the environment: by the option's own name, and what is no option's name is said."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import cli
from pipeline.commands.environment import OTHERS, variable_of
from tests.conftest import REPOSITORY

OPTIONS = [
    pytest.param(command, option, id=f"{command.name} {option.opts[0]}")
    for command in cli.main.commands.values()
    for option in command.params
    if isinstance(option, click.Option)
]


def parsed(command: click.Command, variable: str, value: str, *given: str) -> object:
    """What a command makes of one variable, all that it needs besides left out."""
    option = next(each for each in command.params if each.envvar == variable)
    alone = click.Command(command.name, params=[option])
    seen: dict[str, object] = {}
    alone.callback = seen.update
    result: Result = CliRunner().invoke(alone, list(given), env={variable: value}, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return seen[str(option.name)]


def test_every_option_has_a_variable_of_its_name() -> None:
    for command in cli.main.commands.values():
        for option in command.params:
            if isinstance(option, click.Option):
                long = next(name for name in option.opts if name.startswith("--"))
                assert option.envvar == f"CI2P_{command.name}_{long[2:]}".upper().replace("-", "_")
    assert variable_of("fit-encoder", click.Option(["-d", "--data-dir", "folder"])) == "CI2P_FIT_ENCODER_DATA_DIR"


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_the_variable_sets_the_option(command: click.Command, option: click.Option) -> None:
    variable = str(option.envvar)
    one = option.type.choices[-1] if isinstance(option.type, click.Choice) else "3"
    one = "a=3" if option.opts == ["--set"] else one
    if option.is_flag:
        for text, value in (("1", True), ("true", True), ("0", False), ("no", False)):
            assert parsed(command, variable, text) is value
        with pytest.raises(click.BadParameter, match="is not a valid boolean"):
            parsed(command, variable, "perhaps")
    elif option.multiple or option.nargs == 2:
        assert [str(part) for part in parsed(command, variable, f"{one} {one}")] in (  # type: ignore[attr-defined]
            [one, one],
            ["3.0", "3.0"],
        )
    else:
        assert str(parsed(command, variable, one)) in (one, "3.0")
    if not option.is_flag and option.nargs == 1 and not option.multiple:  # the command line comes first
        assert str(parsed(command, variable, "nonsense", option.opts[0], one)) in (one, "3.0")


def test_settings_with_spaces_in_them() -> None:
    train = cli.main.commands["train"]
    value = "betas = [0.9, 0.95] lr=1e-3 pretrained=my weights/a b.pth"
    assert parsed(train, "CI2P_TRAIN_SET", value) == (
        "betas = [0.9, 0.95]",
        "lr=1e-3",
        "pretrained=my weights/a b.pth",
    )


def called(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli.main, arguments, env=environment)


def test_what_means_nothing_is_said_with_the_nearest_that_does(tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    odd = {
        "CI2P_TRAIN_SETTINGS": "a=1",
        "CI2P_ENCODE_SHARDSIZE": "4",
        "CI2P_NETWORK_TIMEOUT": "9",
        "CI2P_TEST_DATA": "x",
    }
    lines = called("verify", missing, **odd).stderr.splitlines()
    assert lines[:-1] == [
        "CI2P_ENCODE_SHARDSIZE in the environment is no option's and does nothing; is CI2P_ENCODE_SHARD_SIZE meant?",
        "CI2P_TRAIN_SETTINGS in the environment is no option's and does nothing; is CI2P_TRAIN_SET meant?",
    ]
    assert lines[-1].startswith("Error: ")


def test_a_value_that_is_refused_says_where_it_came_from() -> None:
    given = ("train", "--shards", "x")
    line = "Error: Invalid value for '--epochs': 'many' is not a valid integer."
    assert called(*given, CI2P_TRAIN_EPOCHS="many").stderr.startswith(
        f"{line} (from CI2P_TRAIN_EPOCHS in the environment) See"
    )
    assert called(*given, "--epochs", "many").stderr.startswith(f"{line} See `")


def test_all_that_ci2p_reads_is_known() -> None:
    """A variable that is named in the code is an option's, or among OTHERS: else whoever sets it is told off."""
    known = OTHERS | {str(option.envvar) for command in cli.main.commands.values() for option in command.params}
    for folder in ("ci2p_cache", "pipeline", "."):
        for file in (REPOSITORY / folder).glob("*.py" if folder == "." else "**/*.py"):
            if file.name != Path(__file__).name:
                named = set(re.findall(r"\bCI2P_[A-Z_]*[A-Z]\b", file.read_text(encoding="utf-8")))
                assert named - {"CI2P_COMMAND_OPTION"} <= known, file
