"""What a node of a Ray cluster holds: a process with the frozen encoder, which is given one shard after another.

It imports no ray: `ray_cluster` makes an actor of the class, whose methods return what goes wrong, for raised it would
come with its traceback for a text.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ci2p_cache.errors import Ci2pError, InputError
from ci2p_cache.marker import read_marker
from ci2p_cache.process import this_process
from ci2p_cache.spec import SPEC
from ci2p_cache.written import is_written
from pipeline.encode.encoder import Encoder, Engine, Precision, load_encoder
from pipeline.encode.resume import ShardWork
from pipeline.encode.shard_writer import SplitJob, write_shards

T = TypeVar("T")


@dataclass(frozen=True)
class EncoderSettings:
    """The encoder that each process of the cluster loads."""

    weights: str
    device: str
    precision: Precision
    engine: Engine
    weights_sha256: str  # of the process that planned the work


@dataclass(frozen=True)
class Tally:
    """How far a process has come with the shard that it has, by images."""

    shard: int = -1
    num_done: int = 0
    num_failed: int = 0


class ShardEncoder:
    """One process: the encoder, and the split whose shards it writes. `tally` may be asked while `encode` runs."""

    def __init__(self, threads: int, workers: int) -> None:
        """`threads` for the encoder, and as many processes that decode."""
        self._threads = threads
        self._workers = workers
        self._encoder: Encoder | None = None
        self._job: tuple[Any, SplitJob] | None = None
        self._tally = Tally()

    def load(self, settings: EncoderSettings) -> str | Exception:
        """Loads the encoder; the name of the process, as files that it writes aside bear it, or what is wrong."""
        return _returning(lambda: self._load(settings))

    def encode(self, references: list[Any], work: ShardWork) -> Tally | Exception:
        """Writes a shard of the split that the one reference is to, unless it has been written meanwhile."""
        return _returning(lambda: self._encode(references[0], work))

    def tally(self) -> Tally:
        return self._tally

    def _load(self, settings: EncoderSettings) -> str:
        import torch

        torch.set_num_threads(self._threads)
        encoder = load_encoder(settings.weights, settings.device, settings.precision, engine=settings.engine)
        if encoder.weights_sha256 != settings.weights_sha256:
            raise InputError(
                f"--weights {settings.weights}: {os.uname().nodename} has another encoder by that name (sha256 "
                f"{encoder.weights_sha256[:12]}, and {settings.weights_sha256[:12]} where the command runs); give all "
                "nodes the same file"
            )
        self._encoder = encoder
        return str(this_process())

    def _encode(self, reference: Any, work: ShardWork) -> Tally:
        assert self._encoder is not None, "load comes first"
        if self._job is None or self._job[0] != reference:
            self._job = (reference, _get(reference))
        job = replace(self._job[1], options=replace(self._job[1].options, workers=self._workers))
        _check_folder(job)
        marker = read_marker(job.split_dir, work.shard)
        if marker != work.marker:
            if is_written(job.split_dir, work.shard, job.spec, *job.counts):
                return Tally(work.shard, work.num_todo, len(marker.failures) if marker is not None else 0)
            work = ShardWork(work.shard, work.planned)  # another was lost while it wrote the shard anew
        self._tally = Tally(work.shard)

        def count(num_done: int, num_failed: int) -> None:
            self._tally = Tally(work.shard, self._tally.num_done + num_done, num_failed)

        write_shards(self._encoder, job, [work], count)
        return self._tally


def _check_folder(job: SplitJob) -> None:
    """Raises InputError where this node does not see the folder that the others write into."""
    if isinstance(job.split_dir, Path) and not (job.split_dir / SPEC).is_file():
        raise InputError(
            f"--out {job.split_dir.parent}: the node {os.uname().nodename} does not see that folder; give one that all "
            "nodes share, or the URL of a bucket"
        )


def _returning(compute: Callable[[], T]) -> T | Exception:
    try:
        return compute()
    except (Ci2pError, OSError) as error:
        return error
    except MemoryError:
        return OSError("not enough memory for a batch of images; give a smaller --batch-size, or fewer --workers")


def _get(reference: Any) -> Any:
    import ray

    return ray.get(reference)
