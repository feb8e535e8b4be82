"""`ci2p ARGUMENTS` in a process of its own that costs milliseconds, where a new interpreter imports torch for seconds.

Each is forked from a server that has imported what commands import and computed nothing, so that nothing is inherited
that a fork would break. What is tested is the command, its signals and its files; that a new interpreter finds all that
it needs is tested by tests/test_cli.py, with `run_python`.
"""

import atexit
import contextlib
import multiprocessing
import multiprocessing.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

# The one server of a process that tests: whatever asks for "forkserver" is forked from it.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "pytest",
        "tests.forked",
        "tests.storm.victims",
        "tests.toy_training",
        "ci2p_cache.convert",
        "ci2p_cache.tar_store",
        "ci2p_cache.zarr_store",
        "pipeline.encode.run",
        "pipeline.evaluate.run",
        "pipeline.running.processes",
        "pipeline.train.loop",
    ]
)


class Forked:
    """What `subprocess.Popen([sys.executable, "-m", "ci2p", *arguments], ...)` is, with both outputs kept as text.

    Or a process that does other `work` with the arguments, a function of a module.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        work: "Callable[[list[str]], None] | None" = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
    ) -> None:
        self.args = [*map(str, arguments)]
        self._outputs = [tempfile.NamedTemporaryFile() for _ in range(2)]  # noqa: SIM115
        given = (
            [file.name for file in self._outputs],
            str(cwd or Path.cwd()),
            dict(os.environ if env is None else env),
            start_new_session,
            work or run_command,
            self.args,
        )
        self._process = CONTEXT.Process(target=_become, args=given)
        self._process.start()
        self.pid = int(self._process.pid or 0)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Standard output and standard error, once it has ended."""
        self.wait(timeout)
        stdout, stderr = (Path(file.name).read_text(errors="replace") for file in self._outputs)
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_command(arguments: list[str]) -> None:
    """What `python -m ci2p ARGUMENTS` does, but that the processes of --gpus are forked too."""
    import ci2p
    from pipeline.running import processes

    sys.argv = ["ci2p", *arguments]
    processes.subprocess = SimpleNamespace(Popen=_Child)  # type: ignore[assignment]
    ci2p._main()


def _become(
    outputs: list[str],
    cwd: str,
    env: dict[str, str],
    start_new_session: bool,
    work: Callable[[list[str]], None],
    arguments: list[str],
) -> None:
    """Turns a process of the server into one that was started from here, and does `work(arguments)` in it."""
    if start_new_session:
        os.setsid()
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.chdir(cwd)
    _renew(env)
    _leave(work, arguments)


def _renew(env: Mapping[str, str]) -> None:
    """The environment and what a new interpreter makes of it."""
    os.environ.clear()
    os.environ.update(env)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False, buffering=1) for number in (1, 2))  # noqa: SIM115


def _leave(work: Callable[[list[str]], None], arguments: list[str]) -> NoReturn:
    """Does `work(arguments)` and ends the process as an interpreter ends."""
    status = 1
    try:
        work(arguments)
        status = 0
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:  # noqa: BLE001  (an interpreter ends by any of them)
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


class _Child:
    """What pipeline/running/processes.py knows of a `subprocess.Popen([sys.executable, ci2p.py, *arguments], ...)`."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], start_new_session: bool) -> None:
        self._status: int | None = None
        self.pid = os.fork()
        if not self.pid:
            if start_new_session:
                os.setsid()
            atexit._clear()  # what its parent leaves behind is its parent's to delete
            atexit.register(multiprocessing.util._exit_function)
            _renew(env)
            _leave(run_command, [*command[2:]])

    def poll(self) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.01)
        return int(self._status or 0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
