"""Encoding on a Ray cluster of two nodes, one of which is killed in the middle; skipped where ray is not installed."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci2p_cache.errors import InputError, WorkError
from ci2p_cache.verify import verify_split
from pipeline.encode.ray_options import RayOptions
from tests.conftest import encode_folder, files_of

pytest.importorskip("ray", reason="ray, of which an installation has 250 MB, is an extra of its own")

_STORE_BYTES = 80 << 20  # the least that Ray takes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": _STORE_BYTES},
    )
    yield made
    made.shutdown()


def test_a_cache_of_two_nodes_one_of_them_killed(
    cluster: Any,
    image_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    alone = encode_folder(image_folder, tmp_path / "alone", shard_size=1, batch_size=1)
    node = cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)
    target = tmp_path / "cache"

    def kill() -> None:
        while len(list(target.glob("train/shards/*.json"))) < 2:
            time.sleep(0.01)
        cluster.remove_node(node, allow_graceful=False)

    killer, handler = threading.Thread(target=kill, daemon=True), signal.getsignal(signal.SIGTERM)
    killer.start()
    encode_folder(image_folder, target, shard_size=1, batch_size=1, ray=RayOptions(cluster.address))
    killer.join(60)
    assert not killer.is_alive() and "was lost" in caplog.text
    assert files_of(target) == files_of(alone) and signal.getsignal(signal.SIGTERM) == handler
    assert [verify_split(target, split) for split in ("train", "val")] == [[], []]
    shown = capfd.readouterr()
    assert shown.out == "" and "encode train: 21/21 images" in shown.err and "1 encoder on 1 node, 1 lost" in shown.err
    encode_folder(image_folder, target, shard_size=1, batch_size=1, ray=RayOptions(cluster.address))
    assert files_of(target) == files_of(alone)


def test_an_image_that_cannot_be_used_is_said_in_a_line(cluster: Any, tmp_path: Path) -> None:
    for name in ("train/a/1.png", "val/a/1.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        (tmp_path / "images" / name).write_bytes(b"no image")
    with pytest.raises(WorkError, match=r"train image a/1: .*; mend or remove it and run the same command again"):
        encode_folder(tmp_path / "images", tmp_path / "cache", ray=RayOptions(cluster.address))


def test_what_cannot_be_is_refused(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--device cuda:1: with --launch ray"):
        encode_folder(image_folder, tmp_path / "cache", ray=RayOptions(), device="cuda:1")
    with pytest.raises(InputError, match=r"--ray-address 127.0.0.1:9: nobody listens there \(Connection refused\)"):
        encode_folder(image_folder, tmp_path / "cache", ray=RayOptions("127.0.0.1:9"))
    with pytest.raises(InputError, match=r"--ray-gpus 0.5 and --device cpu"):
        encode_folder(image_folder, tmp_path / "cache", ray=RayOptions(gpus=0.5))
