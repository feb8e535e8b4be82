"""Stage one on a Ray cluster: encoders on all nodes, each given one shard after another.

A shard is an idempotent task: whoever writes it writes the same bytes, its marker last. So a lost node costs the shards
that it was at, which others are given, and a slow one is helped by those that have nothing else to do.
"""

import contextlib
import itertools
import logging
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ci2p_cache.errors import Ci2pError, WorkError
from ci2p_cache.printable import counted, printable
from ci2p_cache.publish import sweep_tree
from ci2p_cache.written import is_written
from pipeline.encode.ray_encoder import EncoderSettings, ShardEncoder, Tally
from pipeline.encode.ray_options import RayOptions
from pipeline.encode.resume import ShardWork
from pipeline.encode.shard_board import ShardBoard
from pipeline.encode.shard_writer import SplitJob
from pipeline.running import signals
from pipeline.running.progress import Advance

logger = logging.getLogger("ci2p")

_POLL_S = 0.5
_LOOK_S = 5.0  # between looks for nodes that have come
_SAY_S = 30.0  # before it is said what is waited for
_PATIENCE_S = 600.0  # with a cluster in which nothing can encode
_ENDING_S = 10.0  # which processes that are killed may take
_MOST_LOSSES = 5  # of one shard, or of encoders that did not come up on one node
_MOST_WORKERS = 16


@dataclass
class _Worker:
    """An encoder in the cluster."""

    number: int
    actor: Any
    node: str  # its id
    name: str  # of the node, for people
    reference: Any  # of what it does now; None while it is idle
    process: str | None = None  # as `process.this_process` there; None until its encoder is loaded
    work: ShardWork | None = None


class RayCluster:
    """The encoders of a cluster. Nodes that come while it works are put to use, and those that go are done without."""

    def __init__(self, options: RayOptions, settings: EncoderSettings) -> None:
        self._options = options
        self._settings = settings
        self._workers: dict[int, _Worker] = {}
        self._numbers = itertools.count()
        self._unfit: Counter[str] = Counter()  # node -> encoders that did not come up there
        self._gone: set[str] = set()  # processes that were lost or killed
        self._num_lost = 0
        self._looked_at = 0.0
        self._useful_at = time.monotonic()
        self._said = False
        self._asked: dict[Any, int] = {}  # reference -> number of the worker that was asked for its tally
        self._tallies: dict[int, Tally] = {}

    def write_shards(self, job: SplitJob, work: list[ShardWork], advance: Advance) -> None:
        """As `WriteShards`. Raises what an encoder says of an image or the disk, and WorkError where one shard is lost
        again and again, or where nothing is left that could encode."""
        import ray

        if isinstance(job.split_dir, Path):
            job = replace(job, split_dir=job.split_dir.absolute())  # nodes work in folders of their own
        reference = ray.put(job)
        while work:
            with signals.finishing():  # an exception of a signal's handler would be lost in Ray's own code
                self._write(work, reference, advance)
            killed = self._stop_busy()
            # One that was killed may just have taken the marker of another's shard away, to write its own.
            work = [each for each in killed if not is_written(job.split_dir, each.shard, job.spec, *job.counts)]
        if isinstance(job.split_dir, Path):
            sweep_tree(job.split_dir, self._gone)

    def _write(self, work: list[ShardWork], reference: Any, advance: Advance) -> None:
        import ray

        board = ShardBoard(work)
        num_shown = 0
        num_failed: dict[int, int] = {}
        while not board.is_done:
            signals.end_if_told()
            self._look_for_nodes()
            self._give_work(board, reference)
            running = {worker.reference: worker for worker in self._workers.values() if worker.reference is not None}
            settled: list[Any] = ray.wait(list(running), timeout=_POLL_S)[0] if running else []
            if not running:
                time.sleep(_POLL_S)
            for each in settled:
                self._settle(running[each], each, board, num_failed)
            self._ask()
            tallies = {tally.shard: tally for tally in self._tallies.values() if tally.shard not in board.done}
            num_done = board.num_images + sum(tally.num_done for tally in tallies.values())
            bad = sum(num_failed.values()) + sum(tally.num_failed for tally in tallies.values())
            advance(max(0, num_done - num_shown), self._note(bad))
            num_shown = max(num_done, num_shown)

    def end(self) -> None:
        """Kills all encoders: what they have not finished is nowhere."""
        for worker in list(self._workers.values()):
            self._drop(worker)

    # -------------------------------------------------------------------------------------------------------- encoders

    def _look_for_nodes(self) -> None:
        """Begins encoders where there is room for them and none yet."""
        now = time.monotonic()
        if any(worker.process for worker in self._workers.values()):
            self._useful_at, self._said = now, False
        elif now - self._useful_at > _PATIENCE_S:
            raise WorkError(
                f"no node of the Ray cluster could encode for {_PATIENCE_S / 60:.0f} minutes; finished shards are "
                "kept: see to the cluster (ray status) and run the same command again"
            )
        elif now - self._useful_at > _SAY_S and not self._said:
            self._said = True
            logger.warning("waiting for a node of the Ray cluster that has room for an encoder (ray status)")
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        have = Counter(worker.node for worker in self._workers.values())
        for node, name, count, cpus, gpus in self._room():
            for _ in range(count - have[node]):
                self._begin(node, name, cpus, gpus)

    def _room(self) -> list[tuple[str, str, int, float, float]]:
        """(node, its name, encoders that it has room for, cores and GPUs of each); with GPUs, those nodes alone."""
        import ray

        alive = [node for node in ray.nodes() if node["Alive"] and self._unfit[node["NodeID"]] < _MOST_LOSSES]
        kind = self._settings.device
        on_gpus = kind == "cuda" or (kind == "auto" and any(node["Resources"].get("GPU") for node in alive))
        room = []
        for node in alive:
            cpus, gpus = node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)
            share = (self._options.gpus or 1.0) if on_gpus else 0.0
            count = int(gpus / share + 1e-6) if on_gpus else int(cpus >= 1)
            each = self._options.cpus or (max(1.0, cpus // count) if count else 1.0)
            count = min(count, int(cpus // each)) if on_gpus else int(cpus // each)
            if count:
                name = node.get("NodeManagerHostname") or node["NodeID"][:8]
                room.append((node["NodeID"], str(name), count, each, share))
        return room

    def _begin(self, node: str, name: str, cpus: float, gpus: float) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        threads = max(1, int(cpus))
        workers = min(_MOST_WORKERS, threads) if self._options.workers is None else self._options.workers
        made = ray.remote(concurrency_groups={"ask": 1})(ShardEncoder).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        actor = made.remote(threads, workers)
        number = next(self._numbers)
        self._workers[number] = _Worker(number, actor, node, name, actor.load.remote(self._settings))

    def _give_work(self, board: ShardBoard, reference: Any) -> None:
        for worker in self._workers.values():
            if worker.process is not None and worker.reference is None:
                worker.work = board.take(worker.number, worker.node, time.monotonic())
                if worker.work is not None:
                    worker.reference = worker.actor.encode.remote([reference], worker.work)

    def _settle(self, worker: _Worker, reference: Any, board: ShardBoard, num_failed: dict[int, int]) -> None:
        """What an encoder has come back with, or that it does not come back."""
        import ray

        try:
            result = ray.get(reference)
        except ray.exceptions.RayTaskError as error:  # nothing that ought to happen
            raise error.cause from error
        except ray.exceptions.RayError as error:
            self._lose(worker, board, error)
            return
        worker.reference = None
        if isinstance(result, Ci2pError | OSError):
            raise result
        if worker.process is None:
            worker.process = result
            return
        assert worker.work is not None
        num_failed[worker.work.shard] = result.num_failed
        board.finish(worker.work.shard, worker.number, time.monotonic())
        worker.work = None
        self._tallies.pop(worker.number, None)

    def _lose(self, worker: _Worker, board: ShardBoard, error: Exception) -> None:
        self._drop(worker)
        self._looked_at = 0.0
        why = printable(" ".join(str(error).split()))[:200]
        if worker.process is None:
            self._unfit[worker.node] += 1
            if "ModuleNotFoundError" in str(error) or "ImportError" in str(error):
                raise WorkError(f"the node {worker.name} cannot run ci2p ({why}); install the same ci2p on all nodes")
            if self._unfit[worker.node] == _MOST_LOSSES:
                logger.warning("the node %s is done without: no encoder came up on it (%s)", worker.name, why)
            return
        self._num_lost += 1
        if worker.work is None:
            return
        shard = worker.work.shard
        board.lose(shard, worker.number)
        logger.warning("an encoder on %s was lost; shard %d is encoded by another", worker.name, shard)
        if board.losses[shard] >= _MOST_LOSSES:
            raise WorkError(
                f"shard {shard} was lost with its encoder {_MOST_LOSSES} times, the last time on {worker.name} "
                f"({why}); finished shards are kept: give fewer --workers or a smaller --batch-size, and run the same "
                "command again"
            )

    def _drop(self, worker: _Worker) -> None:
        import ray

        self._workers.pop(worker.number, None)
        self._tallies.pop(worker.number, None)
        if worker.process is not None:
            self._gone.add(worker.process)
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(worker.actor, no_restart=True)

    def _stop_busy(self) -> list[ShardWork]:
        """Ends what still writes shards that others have written, for the manifest comes next. Returns these shards."""
        import ray

        busy = [worker for worker in self._workers.values() if worker.work is not None]
        for worker in busy:
            self._drop(worker)
        if busy:
            ray.wait([worker.reference for worker in busy], num_returns=len(busy), timeout=_ENDING_S)
        return [worker.work for worker in busy if worker.work is not None]

    # -------------------------------------------------------------------------------------------------------- progress

    def _ask(self) -> None:
        """Takes in the tallies that have come, and asks for the next ones; waits for none."""
        import ray

        if self._asked:
            for reference in ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)[0]:
                number = self._asked.pop(reference)
                with contextlib.suppress(ray.exceptions.RayError):
                    tally = ray.get(reference)
                    if number in self._workers:
                        self._tallies[number] = tally
        waiting = set(self._asked.values())
        for worker in self._workers.values():
            if worker.work is not None and worker.number not in waiting:
                self._asked[worker.actor.tally.options(concurrency_group="ask").remote()] = worker.number

    def _note(self, num_failed: int) -> str:
        useful = [worker for worker in self._workers.values() if worker.process]
        notes = [f"{counted(len(useful), 'encoder')} on {counted(len({worker.node for worker in useful}), 'node')}"]
        notes += [f"{num_failed} failed"] * bool(num_failed) + [f"{self._num_lost} lost"] * bool(self._num_lost)
        return ", ".join(notes)
