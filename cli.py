"""The door: the commands put together, and every error that a user can mend told in one line.

The commands themselves are in pipeline/commands/, a file each.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from ci2p_cache.errors import Ci2pError, WorkError, describe_system_error
from ci2p_cache.printable import printable
from pipeline.commands.baseline import baseline
from pipeline.commands.caches import convert, inspect, verify
from pipeline.commands.checks import checks
from pipeline.commands.complexity import complexity
from pipeline.commands.encode import encode
from pipeline.commands.environment import came_from, name_variables, unknown_variables
from pipeline.commands.evaluate import evaluate, predict
from pipeline.commands.export import export
from pipeline.commands.fit_encoder import fit_encoder
from pipeline.commands.gpus import STARTED_BY_GPUS
from pipeline.commands.output import printable_lines
from pipeline.commands.reader import ReaderGone, is_gone, leave
from pipeline.commands.recipes import recipes
from pipeline.commands.report import report
from pipeline.commands.train import train
from pipeline.running import signals
from pipeline.running.memory import is_of_gpu, is_out_of_memory


class _Door(click.Group):
    """Turns every error that a user can mend into one line on standard error and an exit status."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        name_variables(cmd)
        super().add_command(cmd, name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of the work, not of the alphabet

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _broken_pipes():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _broken_pipes():
            return super().invoke(ctx)

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        given = args[0] if args else kwargs.get("args")
        if not (sys.argv[1:] if given is None else given):
            args, kwargs["args"] = (), ["--help"]
        kwargs["obj"] = sys.argv[1:] if given is None else list(given)  # what --gpus runs again
        try:
            with signals.ending_by_signals():
                status = super().main(*args, **kwargs)
        except ReaderGone:
            leave()
        except Ci2pError as error:
            _fail(str(error), error.exit_status)
        except click.exceptions.Exit as error:
            sys.exit(error.exit_code)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "ci2p"
            origin = came_from(error) if isinstance(error, click.BadParameter) else ""
            _fail(f"{error.format_message()}{origin} See `{path} --help`.", 2)
        except click.ClickException as error:
            _fail(error.format_message(), 1)
        except signals.Ended as error:
            _fail(str(error), error.exit_status)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted; run the same command again to continue", 1)
        except (OSError, MemoryError, RuntimeError, ImportError) as error:
            if is_out_of_memory(error):
                _fail(self._short_of_memory(kwargs["obj"], of_gpu=is_of_gpu(error)), 1)
            if not isinstance(error, OSError):
                raise
            _fail(describe_system_error(error), 1)
        sys.exit(status if isinstance(status, int) else 0)

    def _short_of_memory(self, given: list[str], *, of_gpu: bool) -> str:
        """What a command that ran out of it can be asked to do with less."""
        command = next((self.commands[word] for word in given if word in self.commands), None)
        names = {parameter.name for parameter in command.params} if command else set()
        options = {"batch_size": "a smaller --batch-size", "workers": "fewer --workers", "resident": "--resident off"}
        if of_gpu:
            options = {"batch_size": "a smaller --batch-size", "resident": "--resident cpu", "device": "--device cpu"}
        ways = [way for name, way in options.items() if name in names]
        if of_gpu:
            return f"not enough memory on the GPU; give {' or '.join(ways) or 'it less to do'}"
        lower = f", or give {' or '.join(ways)}" if ways else ""
        return f"not enough memory; allow it more (ulimit -v){lower}"


@contextmanager
def _broken_pipes() -> Iterator[None]:
    """Tells a pipe that nobody reads any more from any other: click would end without a word for either."""
    try:
        yield
    except BrokenPipeError as error:
        if is_gone():
            raise ReaderGone from error
        raise WorkError(describe_system_error(error)) from error


def _fail(message: str, status: int) -> NoReturn:
    message = printable(" ".join(message.split()))
    if STARTED_BY_GPUS in os.environ:
        from pipeline.running.processes import report_failure

        if report_failure(message, status):  # one of several: what happened is said once, by who started them
            sys.exit(status)
    click.echo(f"Error: {message}", err=True)
    sys.exit(status)


class _StandardError(logging.Handler):
    """Writes to whatever standard error is at the moment, so that a line lands above a progress bar, not in it."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(printable_lines(self.format(record)), err=True)


@click.group(cls=_Door, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "-V", "--version", package_name="ci2p")
def main() -> None:
    """Train Vision Transformers from learned-codec latents.

    \b
    ci2p encode --dataset folder --data-dir DIR  # -> latents
    ci2p train caches/DIR                        # -> a model
    ci2p eval                                    # -> accuracy

    Every option can also be set by the environment: CI2P_ENCODE_BATCH_SIZE=64 is `ci2p encode --batch-size 64`.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_StandardError()], force=True)
    logging.getLogger("ci2p").setLevel(logging.INFO)
    if STARTED_BY_GPUS not in os.environ:
        for line in unknown_variables(main.commands.values()):
            click.echo(line, err=True)


for _command in (
    encode,
    train,
    evaluate,
    predict,
    report,
    inspect,
    verify,
    convert,
    export,
    baseline,
    fit_encoder,
    recipes,
    checks,
    complexity,
):
    main.add_command(_command)


if __name__ == "__main__":
    main()
