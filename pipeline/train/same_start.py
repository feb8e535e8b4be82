"""The same start: all processes of a run go on from one place, or none of them does."""

import platform
from dataclasses import dataclass
from pathlib import Path

from ci2p_cache.errors import Ci2pError, InputError
from pipeline.running.launched import gather, launched_as
from pipeline.train.checkpoint import Checkpoint, newest_checkpoint
from pipeline.train.one_run import check_checkpoint, check_length, check_run
from pipeline.train.run_folder import RunConfig


@dataclass(frozen=True)
class _Start:
    """Of one process."""

    machine: str
    run_id: str
    epoch: int = 0
    step: int = 0
    refusal: Ci2pError | None = None

    def __str__(self) -> str:
        if self.epoch == self.step == 0:
            return f"at the beginning ({self.machine})"
        return f"in epoch {self.epoch + 1} after step {self.step} ({self.machine})"


def find_start(run: Path, config: RunConfig) -> tuple[Checkpoint | None, bool]:
    """The checkpoint that all processes go on from, None where they begin, and whether it is the previous one.

    Raises, on every process, what `check_run`, `newest_checkpoint` and those behind it raise on any of them; InputError
    where they do not see the same run folder, or were not given the same run.
    """
    checkpoint, is_previous, refusal = None, False, None
    try:
        check_run(run, config)
        checkpoint, is_previous = newest_checkpoint(run) or (None, False)
        check_checkpoint(run, checkpoint, config)
        if checkpoint is not None:
            check_length(run, config, checkpoint.progress)
    except Ci2pError as error:
        refusal = error
    progress = (checkpoint.progress.epoch, checkpoint.progress.step) if checkpoint is not None else (0, 0)
    starts = gather(_Start(platform.node(), config.run_id, *progress, refusal), launched_as())
    if refusal is None:
        refusal = next((start.refusal for start in starts if start.refusal is not None), None)
    if refusal is not None:
        raise refusal
    first = starts[0]
    for rank, start in enumerate(starts):
        if start.run_id != first.run_id:
            raise InputError(
                f"process {rank} ({start.machine}) would train another run than process 0 ({first.machine}); give all "
                "of them the same command and the same data, and a --precision where their GPUs differ"
            )
        if (start.epoch, start.step) != (first.epoch, first.step):
            raise InputError(
                f"process 0 would go on {first}, and process {rank} {start}: they do not see the same {run}; give an "
                "--out that all machines share"
            )
    return checkpoint, is_previous
