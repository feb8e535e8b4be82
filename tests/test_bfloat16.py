"""bfloat16: a processor without it is told of, once a run, and nothing else is."""

import pytest
import torch

from pipeline.encode.encoder import load_encoder
from pipeline.running.bfloat16 import warn_of_slow_bfloat16
from pipeline.train.launch import launch


@pytest.mark.parametrize(
    ("capability", "device", "precision", "warned"),
    [
        ("AVX2", "cpu", "bfloat16", True),
        ("AVX2", "cpu", "float32", False),
        ("AVX512", "cpu", "bfloat16", False),
        ("AVX2", "cuda", "bfloat16", False),
    ],
)
def test_who_is_told(
    capability: str,
    device: str,
    precision: str,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    warn_of_slow_bfloat16(torch.device(device), precision)
    assert [record.message for record in caplog.records] == warned * [
        "this processor has no bfloat16 instructions: --precision float32 will be many times faster"
    ]


def test_encoding_and_training_say_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    load_encoder("bundled", "cpu", "bfloat16")
    with caplog.at_level("INFO"):
        launch("cpu", "bfloat16")
    assert [record.name for record in caplog.records] == ["ci2p", "ci2p"]  # and nothing of Lightning's own
