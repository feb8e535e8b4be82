"""What is rounded where it was made: numpy's integers to the last bit, whatever the encoder, on any way to a cache."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from ci2p_cache import codecs
from ci2p_cache.cache import open_cache
from ci2p_cache.loader import BatchLoader
from ci2p_cache.verify import verify_split
from pipeline.encode import rows, shard_writer
from pipeline.encode.encoder import Encoder
from pipeline.encode.stored_batch import StoredBatch, whole_steps, zigzag
from tests.conftest import encode_folder, files_of

STEEP = torch.linspace(-1400, 1400, 4)


def steep_encoder(images: torch.Tensor) -> torch.Tensor:
    """Latents as CompressAI's own weights give them, [B, 192, H, W]: 85 channels of zeros, and four up to +-700."""
    means = torch.nn.functional.avg_pool2d(images, 16).mean(1, keepdim=True) - 0.5
    scales = torch.zeros(192)
    scales[85:] = torch.linspace(-60, 60, 107)
    scales[100:104] = STEEP
    return means * scales[:, None, None]


@pytest.mark.parametrize("step", [1.0, 0.37, 0.003, 3e4])
def test_values_are_those_of_numpy(step: float) -> None:
    rng = np.random.default_rng(0)
    latents = (rng.standard_t(1, (2, 3, 4, 8, 8)) * 30).astype(np.float32)
    edges = [0.0, -0.0, 0.5, -0.5, 1.5, 126.5, 127.0, 127.5, -127.5, 128.0, -128.0, 129.5, 3e4, -1e-30]
    latents.reshape(-1)[: len(edges)] = np.float32(edges) * np.float32(step)
    integers = codecs.quantise(latents, "int", step)
    assert np.array_equal(whole_steps(torch.from_numpy(latents), step).numpy(), integers)
    assert np.array_equal(zigzag(torch.from_numpy(latents), step).numpy(), codecs.zigzag(integers))
    low, high = codecs.stored_range(latents.min(), latents.max(), "int", step)
    stored = codecs.dequantise(integers, "int", step)
    assert (low, high) == (stored.min(), stored.max())


@pytest.mark.parametrize("store", ["int", "rans"])
def test_integers_far_beyond_a_byte_among_dead_channels_come_back(
    cache_format: str, store: str, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """... and the cache is the same by one packing thread and by seven."""
    seen: list[np.ndarray] = []

    def watch(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(steep_encoder(pixels).numpy())
        return steep_encoder(pixels)

    encoder = Encoder(watch, "0" * 64, torch.device("cpu"), "float32")
    monkeypatch.setattr("pipeline.encode.run.load_encoder", lambda *_, **__: encoder)
    caches = []
    for threads in (7, 1):
        monkeypatch.setattr(shard_writer, "packing_threads", lambda threads=threads: threads)
        caches.append(
            encode_folder(image_folder, tmp_path / f"by{threads}", format=cache_format, store=store, splits=["train"])
        )
    assert files_of(caches[0]) == files_of(caches[1])
    split = open_cache(caches[0], "train")
    exact = np.concatenate([part.reshape(2, -1, 192, 2, 2) for part in seen[: len(seen) // 2]], axis=1)
    assert 130 < np.abs(exact[:, :, 100]).max() < 700 and split.manifest.num_escapes == (abs(exact.round()) > 127).sum()
    for view in range(2):
        for batch in BatchLoader(split, batch_size=7, shuffle=False, view=view).epoch(0):
            assert np.array_equal(batch.latents.numpy(), np.rint(exact[view, batch.positions]))
    assert verify_split(caches[0], "train") == []


def test_the_encoder_is_few_batches_ahead_of_the_packing(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: Counter[StoredBatch] = Counter()
    begun: list[StoredBatch] = []

    def begin(*given: object) -> StoredBatch:
        assert all(packed[batch] == 3 for batch in begun[:-2])
        begun.append(StoredBatch(*given))  # type: ignore[arg-type]
        return begun[-1]

    def pack(batch: StoredBatch, *given: object) -> rows.Row:
        row = rows.pack_row(batch, *given)  # type: ignore[arg-type]
        packed[batch] += 1
        return row

    monkeypatch.setattr(shard_writer, "StoredBatch", begin)
    monkeypatch.setattr(shard_writer, "pack_row", pack)
    encode_folder(image_folder, tmp_path / "cache", splits=["train"], shard_size=21)
    assert len(begun) == 7 and all(packed[batch] == 3 for batch in begun)
