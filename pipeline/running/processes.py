"""`--gpus N|all`: the same command line in N processes of this machine, one a GPU.

Each process finds its rank in the environment, as under torchrun. What ends one of them ends all, and is said once; a
signal to this process is theirs.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.printable import counted
from pipeline.running import signals
from pipeline.running.cores import num_cores

STARTED_HERE = "CI2P_PROCESS_STARTED"  # in the environment of a process of ours: the file where it says why it ends
_HOST = "127.0.0.1"
_POLL_S = 0.05
# What the others may take to end once one has failed: by themselves, and when told a second time.
_ENDING_S = (2.0, 5.0)


def count_processes(gpus: str, device: str) -> int:
    """How many processes `--gpus` asks for. Raises InputError for no number, and for more GPUs than there are."""
    if gpus != "all" and not (gpus.isascii() and gpus.isdigit() and 0 < int(gpus) < 10_000):
        raise InputError(f"--gpus {gpus}: give a number of processes from 1 on, or all")
    if "RANK" in os.environ:
        raise InputError(f"--gpus {gpus}: torchrun has started this process already; leave the option out")
    if device.partition(":")[0] in ("cpu", "mps"):
        if gpus == "all":
            raise InputError(f"--gpus all: --device {device} has no GPUs to count; give a number of processes")
        return int(gpus)
    there = torch.cuda.device_count()
    if not there:
        raise InputError(
            f"--gpus {gpus}: torch finds no GPU on this machine; leave the option out, or add --device cpu"
        )
    if device.partition(":")[2]:
        raise InputError(
            f"--gpus {gpus} puts a process on each GPU, and --device {device} names one; give --device cuda"
        )
    if gpus != "all" and int(gpus) > there:
        raise InputError(
            f"--gpus {gpus}: torch finds {counted(there, 'GPU')} on this machine; give all, or as many at most"
        )
    return there if gpus == "all" else int(gpus)


def run_processes(command: Sequence[str], count: int) -> None:
    """Runs `python COMMAND` in `count` processes and waits for them.

    Raises the Ci2pError of the process that failed first, WorkError for one that was lost, Ended or KeyboardInterrupt
    when a signal has ended them; the others are ended then.
    """
    with tempfile.TemporaryDirectory(prefix="ci2p-processes-") as folder, _started(command, count, folder) as processes:
        try:
            with signals.passing_on(lambda number: _send(processes, number)):
                _wait(processes)
        except KeyboardInterrupt:
            _send(processes, signal.SIGINT)
            _await_all(processes, None)  # they write a checkpoint first; a second interrupt does not wait for them
            raise


def report_failure(message: str, status: int) -> bool:
    """Tells the process that started this one why it ends; False when there is none to tell."""
    file = os.environ.get(STARTED_HERE)
    if not file:
        return False
    content = {"message": message, "time": time.time(), "status": status}
    with contextlib.suppress(FileNotFoundError):  # who started this one is gone, and nobody is left to tell
        Path(file).write_text(json.dumps(content), encoding="utf-8")
    return True


@dataclass(frozen=True)
class _Process:
    """One of those that were started."""

    rank: int
    popen: "subprocess.Popen[bytes]"
    report: Path

    @property
    def status(self) -> int | None:
        """None while it runs; negative when a signal has killed it."""
        return self.popen.poll()

    def said(self) -> dict[str, object] | None:
        """What it said of its end, if it did."""
        try:
            said = json.loads(self.report.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # killed while it spoke
            return None
        return said if isinstance(said, dict) else None


@contextmanager
def _started(command: Sequence[str], count: int, folder: str) -> Iterator[list[_Process]]:
    """The processes, of which none is left when it ends. They meet in a store of this one's, as torchrun's do."""
    store = TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
    threads = max(1, num_cores() // count)
    common = {
        "MASTER_ADDR": _HOST,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_RUN_ID": uuid.uuid4().hex,
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }
    processes: list[_Process] = []
    try:
        for rank in range(count):
            report = Path(folder) / f"{rank}.json"
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), STARTED_HERE: str(report)}
            # A session of its own: what a terminal sends to all comes by this process alone.
            popen = subprocess.Popen([sys.executable, *command], env=os.environ | common | own, start_new_session=True)
            processes.append(_Process(rank, popen, report))
        yield processes
    finally:
        for seconds in _ENDING_S:
            if any(process.status is None for process in processes):
                _send(processes, signal.SIGTERM)
                _await_all(processes, seconds)
        for process in processes:
            if process.status is None:
                process.popen.kill()
                process.popen.wait()


def _wait(processes: Sequence[_Process]) -> None:
    """Until all have ended well. Raises what the first to fail has said."""
    while any(process.status is None for process in processes):
        if any(process.status for process in processes):
            break
        time.sleep(_POLL_S)
    failed = [process for process in processes if process.status]
    if not failed:
        return
    if signals.told() is not None:
        _await_all(processes, None)  # they were told, and agree on when
    raise _failure_of(failed, len(processes))


def _failure_of(failed: Sequence[_Process], count: int) -> BaseException:
    """What the first of them has said of its end; what a lost one draws down with it fails later."""
    said = [each for each in (process.said() for process in failed) if each is not None]
    is_killed = signals.told() is None and any(process.status == -signal.SIGKILL for process in failed)
    if said and not is_killed:  # else the others say no more than that they have lost that one
        first = min(said, key=lambda each: float(str(each["time"])))
        message, status = str(first["message"]), int(str(first["status"]))
        if status > 128:
            return signals.Ended(status - 128, message)
        return InputError(message) if status == InputError.exit_status else WorkError(message)
    number = signals.told()
    if number is not None:
        return signals.Ended(number)
    lost = min(failed, key=lambda process: process.status or 0)  # killed ones first
    assert lost.status is not None
    how = f"by {signal.Signals(-lost.status).name}" if lost.status < 0 else f"with status {lost.status}"
    return WorkError(f"process {lost.rank} of {count} ended {how}; run the same command again to continue")


def _send(processes: Sequence[_Process], number: int) -> None:
    for process in processes:
        if process.status is None:
            process.popen.send_signal(number)


def _await_all(processes: Sequence[_Process], seconds: float | None) -> None:
    """Until all have ended, or for so long; None is no limit."""
    end = None if seconds is None else time.monotonic() + seconds
    while any(process.status is None for process in processes) and (end is None or time.monotonic() < end):
        time.sleep(_POLL_S)
