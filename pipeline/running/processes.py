"""`--gpus N|all`: the same command line in N processes of this machine, one a GPU, through torch's elastic launcher.

Each process finds its rank in the environment, as under torchrun. What ends one of them ends all, and is said once.
"""

import json
import logging
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ci2p_cache.errors import Ci2pError, InputError, WorkError

STARTED_HERE = "CI2P_PROCESS_STARTED"  # in the environment of a process that this module has started
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where such a process says why it ends


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
        raise InputError(f"--gpus {gpus}: torch finds {there} GPUs on this machine; give all, or as many at most")
    return there if gpus == "all" else int(gpus)


def run_processes(command: Sequence[str], count: int) -> None:
    """Runs `python COMMAND` in `count` processes and waits for them.

    Raises the Ci2pError of the process that failed first, WorkError for one that was lost, and KeyboardInterrupt when
    this one is told to end; the others are ended then.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it says in ten lines what is raised
    threads = max(1, len(os.sched_getaffinity(0)) // count) if hasattr(os, "sched_getaffinity") else 1
    with tempfile.TemporaryDirectory(prefix="ci2p-processes-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        with _environment({STARTED_HERE: "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}):
            try:
                elastic_launch(config, sys.executable)(*command)
            except ChildFailedError as error:
                raise _said_by(*error.get_first_failure(), count) from None
            except SignalException:
                raise KeyboardInterrupt from None


def report_failure(message: str, status: int) -> bool:
    """Tells the process that started this one why it ends; False when there is none to tell."""
    file = os.environ.get(_ERROR_FILE)
    if not file or STARTED_HERE not in os.environ:
        return False
    content = {"message": message, "timestamp": int(time.time()), "status": status}
    Path(file).write_text(json.dumps(content), encoding="utf-8")
    return True


def _said_by(rank: int, failure: ProcessFailure, count: int) -> Ci2pError:
    said = failure.error_file_data
    if "status" in said:
        kind = InputError if said["status"] == InputError.exit_status else WorkError
        return kind(said["message"])
    how = f"by {failure.signal_name()}" if failure.exitcode < 0 else f"with status {failure.exitcode}"
    return WorkError(f"process {rank} of {count} ended {how}; run the same command again to continue")


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
