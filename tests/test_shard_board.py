"""Which shard is tried where, when encoders are lost or slow."""

import random

import numpy as np

from pipeline.encode.resume import ShardWork
from pipeline.encode.shard_board import ShardBoard


def board(num_shards: int) -> ShardBoard:
    return ShardBoard([ShardWork(shard, np.array([shard])) for shard in range(num_shards)])


def taken(board: ShardBoard, encoder: int, node: str, now: float) -> int | None:
    work = board.take(encoder, node, now)
    return None if work is None else work.shard


def test_a_lost_shard_is_the_next_one_tried() -> None:
    made = board(4)
    assert [taken(made, encoder, "a", 0) for encoder in (0, 1)] == [0, 1]
    made.lose(0, 0)
    assert [taken(made, 1, "a", 1) for _ in range(4)] == [0, 2, 3, None]
    assert made.losses[0] == 1 and not made.is_done
    made.finish(0, 1, 2.0)
    made.lose(0, 1)  # heard of late
    assert made.losses[0] == 1 and made.done == {0} and made.num_images == 1


def test_the_slowest_is_tried_again_elsewhere_when_nothing_else_is_left() -> None:
    made = board(4)
    assert [taken(made, *each) for each in ((0, "a", 0.0), (1, "b", 1.0), (2, "b", 2.0), (3, "b", 2.0))] == [0, 1, 2, 3]
    assert taken(made, 4, "b", 100.0) is None, "how long a shard takes is not known yet"
    made.finish(3, 3, 12.0)  # ten seconds
    assert taken(made, 3, "b", 14.0) is None, "none has taken half as long again"
    assert taken(made, 3, "b", 40.0) == 0, "1 is of this node, and 0 the slowest of the others"
    assert taken(made, 4, "b", 40.0) == 1, "0 has two tries"
    made.lose(0, 0)
    assert taken(made, 5, "a", 40.0) == 2, "its other try still runs"
    made.finish(0, 3, 50.0)
    made.finish(0, 0, 51.0)
    assert made.durations == [10.0, 10.0]


def test_whatever_is_lost_each_shard_is_done_once() -> None:
    draw = random.Random(0)
    made, busy, now = board(50), {}, 0.0
    while not made.is_done:
        now += draw.random()
        for encoder in range(6):
            if encoder not in busy:
                shard = taken(made, encoder, str(encoder % 3), now)
                if shard is not None:
                    busy[encoder] = shard
        encoder = draw.choice(sorted(busy))
        shard = busy.pop(encoder)
        if draw.random() < 0.3:
            made.lose(shard, encoder)
        else:
            made.finish(shard, encoder, now)
    assert made.done == set(range(50)) and made.num_images == 50 and sum(made.losses.values()) > 5
