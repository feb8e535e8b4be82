"""What the benchmarks of accuracy write of what has not come yet, and the linear probe beside them."""

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("fvcore.nn", reason="needs the extra [complexity]")

# isort: split
from tests.benchmark_scripts import benchmark_script


@pytest.fixture(scope="module")
def report() -> Iterator[Any]:
    with benchmark_script("comparison_report") as module:
        yield module


@pytest.fixture(scope="module")
def comparison() -> Iterator[Any]:
    with benchmark_script("comparison") as module:
        yield module


@pytest.fixture(scope="module")
def probes() -> Iterator[Any]:
    with benchmark_script("probe") as module:
        yield module


def trained(report: Any, name: str, epochs: int, seed: int) -> Any:
    top1 = [0.5 + 0.02 * seed, 0.6 + 0.02 * seed]
    metrics = [{"epoch": n + 1, "seconds": 30, "val_top1": value} for n, value in enumerate(top1)]
    measured = {"params": 1000, "seconds": 60, "images_per_s": 9, "final_top1": top1[-1], "best_top1": top1[-1]}
    return report.Trained("all", "best", name, epochs, seed, measured | {"metrics": metrics})


def test_a_table_says_which_seeds_it_lacks(report: Any, tmp_path: Path) -> None:
    encoded = {split: {"num_images": 12, "seconds": 60, "bytes_per_view": 1000} for split in ("train", "val")}
    models = {"CI2P-ViT": "ci2p_vit_tiny", "ViT/32": "vit_tiny_p32", "ResNet-18": "resnet18"}
    ways = {"time": {"CI2P-ViT": 2, "ViT/32": 3, "ResNet-18": 1}, "epochs": {"CI2P-ViT": 2, "ViT/32": 2}}
    block = report.Block("all", "best", encoded, models, ways)
    assert [block.lengths(name) for name in models] == [[2], [2, 3], [1]]
    done = [trained(report, "CI2P-ViT", 2, seed) for seed in (1, 0)] + [trained(report, "ViT/32", 3, 0)]
    settings = {"seeds": 2, "image_size": 64, "minutes": 5, "setting": "a toy", "command": "python benchmarks/x.py"}
    report.write_report(tmp_path / "results", [block], done, **settings)
    page = (tmp_path / "results.md").read_text()
    assert "**Not complete: 3 of 8 trainings are done.**" in page
    equal_time, equal_epochs = page.split("### ")[1:]
    assert "| 2 | 1.0 | 9.0 | 61.00 ± 1.41 | 61.00 ± 1.41 | 2 |" in equal_time and "| 60.00 | 1 of 2 |" in equal_time
    assert "| 1 | | | | | 0 of 2 |" in equal_time and "| 2 | | | | | 0 of 2 |" in equal_epochs
    assert "Left out, for it would take over 10 minutes: ResNet-18." in equal_epochs
    found = json.loads((tmp_path / "results.json").read_text())
    in_time_alone = report.Block("all", "best", encoded, models, {"time": ways["time"]})
    report.write_report(tmp_path / "one/results", [in_time_alone], done, **settings)
    assert (tmp_path / "one/results.md").read_text().count("### ") == 1
    cold = report.Block("all", "best", encoded, models, {"cold": {"CI2P-ViT": 2, "ViT/32": 3}})
    report.write_report(tmp_path / "cold/results", [cold], done, **settings)
    page = (tmp_path / "cold/results.md").read_text()
    assert "Equal time, encoding counted, 7.0 minutes" in page  # two of them the cache's
    assert "| 2 | 3.0 | 9.0 | 61.00 ± 1.41 |" in page and "| 3 | 1.0 | 9.0 | 60.00 |" in page
    assert not found["complete"] and len(found["runs"]) == 3 and (tmp_path / "results.png").stat().st_size > 1000


def test_what_reads_no_cache_has_its_encodings_time_besides(comparison: Any) -> None:
    ways = ["time", "cold"]
    setting = comparison.Setting("all", Path(), "best", Path(), Namespace(minutes=10, epochs=None, ways=ways))
    models = {"CI2P-ViT": "ci2p_vit_tiny", "ViT/32": "vit_tiny_p32"}
    encoded = {"train": {"seconds": 150.0}, "val": {"seconds": 50.0}}
    block = comparison.plan(setting, models, encoded, dict.fromkeys(models, 100.0))
    assert block.epochs == {"time": {"CI2P-ViT": 6, "ViT/32": 6}, "cold": {"CI2P-ViT": 6, "ViT/32": 8}}


def test_the_probe_reads_what_a_line_divides_and_nothing_else(probes: Any, zarr_cache: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    noise = torch.randn(300, 10, generator=generator, dtype=torch.float64)
    signal = noise + 8 * torch.eye(10, dtype=torch.float64)[labels]
    for features, least, most in ((signal, 1.0, 1.0), (noise, 0.0, 0.6)):
        weights = probes.fit(features[:200], labels[:200], 3, 1e-3)
        assert torch.equal(weights, probes.fit(features[:200], labels[:200], 3, 1e-3))
        assert least <= probes.top1(weights, features[200:], labels[200:]) <= most
    features, labels = probes.features(probes.open_cache(zarr_cache, "train"))
    assert features.shape == (len(labels), 384) and features.isfinite().all()
    assert probes.probe(zarr_cache) == probes.probe(zarr_cache)
