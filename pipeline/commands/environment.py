"""Options from the environment: CI2P_COMMAND_OPTION, the names as they are typed, in capitals."""

import difflib
import os
from collections.abc import Iterable

import click

from ci2p_cache.printable import printable

PREFIX = "CI2P_"
# What is read from the environment besides: of web servers, of peers, of --gpus, and in the tests.
OTHERS = frozenset(
    {
        "CI2P_NETWORK_TIMEOUT",
        "CI2P_PEER_TIMEOUT",
        "CI2P_PROCESS_STARTED",
        "CI2P_RENEW_GOLDEN",
        "CI2P_TEST_DATA",
        "CI2P_DAMAGES",
    }
)


def variable_of(command: str, option: click.Option) -> str:
    """ "CI2P_FIT_ENCODER_DATA_DIR" for --data-dir of fit-encoder, "CI2P_TRAIN_COMPILE" for --compile/--no-compile."""
    name = max(option.opts, key=len).lstrip("-")
    return f"{PREFIX}{command}_{name}".replace("-", "_").upper()


def name_variables(command: click.Command) -> None:
    """Has every option of a command read its variable."""
    for option in command.params:
        if isinstance(option, click.Option):
            option.envvar = variable_of(str(command.name), option)


def unknown_variables(commands: Iterable[click.Command]) -> list[str]:
    """A line for each CI2P_ variable that is set and means nothing, with the nearest that does."""
    options = [option for command in commands for option in command.params if isinstance(option, click.Option)]
    known = OTHERS | {str(option.envvar) for option in options}
    lines = []
    for name in sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known):
        nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0)
        lines.append(f"{printable(name)} in the environment is no option's and does nothing; is {nearest[0]} meant?")
    return lines


def came_from(error: click.BadParameter) -> str:
    """ " (from CI2P_TRAIN_EPOCHS)" where it was the environment that gave the value that is refused, else ""."""
    if error.ctx is None or error.param is None or error.param.name is None:
        return ""
    is_variable = error.ctx.get_parameter_source(error.param.name) is click.core.ParameterSource.ENVIRONMENT
    return f" (from {error.param.envvar} in the environment)" if is_variable else ""
