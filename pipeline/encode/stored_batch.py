"""Latents -> what the store keeps of them, on the device that made them, and on its way to the host meanwhile.

    latents float32 --rounded, zig-zag or float16--> values uint8 or float16 --no wait--> the host's pinned memory
        `--------- least and largest of each view -------------------------------'

A GPU goes on with the next batch while threads of the host wait for one and compress it, and an eighth of the bytes
of float32 cross. The values are those of `ci2p_cache.codecs`, to the last bit, on a CPU too.

Legend: R renderings (plain and crops), F flips (as they are and mirrored), B images, S image size, C = 192,
H = W = S / 16. A view is one of R x F, numbered in this order.
"""

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ci2p_cache import codecs
from ci2p_cache.spec import CacheSpec
from ci2p_cache.views import whole_views
from pipeline.encode.encoder import Encoder


class StoredBatch:
    """The stored values of a batch of images, which may still be under way. Safe to share among threads."""

    def __init__(self, encoder: Encoder, pixels_RB3SS: Tensor, spec: CacheSpec) -> None:
        """Has the device begin; uint8 pixels. Crops take no more of its memory than one rendering, but for latents."""
        self._spec = spec
        self._device = encoder.device
        self._arriving = threading.Lock()
        self._event: torch.cuda.Event | None = None
        self._latents: list[Tensor] | None = []  # R float32 [F, B, C, H, W] on the device; None: no escapes
        values, ranges = [], []
        for pixels_B3SS in pixels_RB3SS:
            latents_FBCHW = encoder.views(pixels_B3SS, whole_views(spec.views)).transpose(0, 1)
            ranges.append(_ranges(latents_FBCHW))
            if spec.store == "float16":
                values.append(latents_FBCHW.half())
            else:
                assert spec.step is not None
                values.append(zigzag(latents_FBCHW, spec.step))
                self._latents.append(latents_FBCHW)
        self._values = [self._to_host(each) for each in values]
        self._ranges = self._to_host(torch.stack(ranges))  # [R, F, B, 2]
        if self._device.type == "cuda":
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(self._device))

    def image(self, place: int) -> tuple[list[NDArray[np.generic]], list[tuple[int, int, int]], tuple[float, float]]:
        """The stored values [C, H, W] of each view of an image, its escapes, and the range of its dequantised latents.

        Waits until they are there. Raises WorkError as `codecs.stored_range` does.
        """
        self._arrive()
        views = [values_BCHW[place].numpy() for values_FBCHW in self._values for values_BCHW in values_FBCHW]
        ranges = self._ranges[:, :, place].reshape(-1, 2).numpy()  # [R * F, 2]
        low, high = np.float32(ranges[:, 0].min()), np.float32(ranges[:, 1].max())
        stored = codecs.stored_range(low, high, self._spec.store, self._spec.step)
        escapes: list[tuple[int, int, int]] = []
        if self._latents:
            for view, values_CHW in enumerate(views):
                indices = np.flatnonzero(values_CHW == codecs.ESCAPE)
                if len(indices):
                    integers = self._integers_at(view, place, indices)
                    escapes += [(view, *each) for each in zip(indices.tolist(), integers, strict=True)]
        return views, escapes, stored

    def _to_host(self, values: Tensor) -> Tensor:
        if values.device.type != "cuda":
            return values
        return torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)

    def _arrive(self) -> None:
        """Waits; then lets go of the latents, a GPU's memory, unless they have escapes."""
        if self._event is not None:
            self._event.synchronize()
        with self._arriving:
            if self._latents:
                assert self._spec.step is not None
                low, high = self._ranges[..., 0].min(), self._ranges[..., 1].max()
                largest = whole_steps(torch.stack([low, high]), self._spec.step).abs().max()
                if largest <= codecs.INT_LIMIT:
                    self._latents = None

    def _integers_at(self, view: int, place: int, indices: NDArray[np.int64]) -> list[int]:
        """On a stream of its own, for the other one is busy with the batches that follow."""
        assert self._latents and self._spec.step is not None
        num_flips = len(self._latents[0])
        latents = self._latents[view // num_flips][view % num_flips, place].reshape(-1)
        with _own_stream(self._device):
            found = whole_steps(latents[torch.from_numpy(indices).to(self._device)], self._spec.step)
            return [int(each) for each in found.tolist()]


def _own_stream(device: torch.device) -> AbstractContextManager[Any]:
    if device.type != "cuda":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def whole_steps(latents: Tensor, step: float) -> Tensor:
    """round(latents / step), half to even, as `codecs.quantise` computes it; float32, for they may be of any size."""
    if step == 1:
        return latents.round()
    # By a tensor, for by a number a GPU multiplies with its reciprocal.
    return (latents / torch.full((), step, device=latents.device)).round_()


def zigzag(latents_FBCHW: Tensor, step: float) -> Tensor:
    """uint8, as `codecs.zigzag` of whole steps x: 2 x for x >= 0 and -2 x - 1 below, ESCAPE beyond.

    |2 x + 1/2| is that and half a step more, which the conversion cuts off: few passes over memory. A CPU makes them
    while a view lies in its cache.
    """
    latents_NCHW = latents_FBCHW.flatten(0, 1)
    values_NCHW = torch.empty_like(latents_NCHW, dtype=torch.uint8)
    half = torch.full((), 0.5, device=latents_NCHW.device)
    at_once = len(latents_NCHW) if latents_NCHW.is_cuda else 1
    for begin in range(0, len(latents_NCHW), at_once):
        integers = whole_steps(latents_NCHW[begin : begin + at_once], step)
        values = torch.add(half, integers, alpha=2).abs_().clamp_max_(codecs.ESCAPE)
        values_NCHW[begin : begin + at_once].copy_(values)
    return values_NCHW.view(latents_FBCHW.shape)


def _ranges(latents_FBCHW: Tensor) -> Tensor:
    """Least and largest of each view, [F, B, 2]; not a number where one of its values is none."""
    values_FBN = latents_FBCHW.flatten(2)
    return torch.stack([values_FBN.amin(2), values_FBN.amax(2)], dim=-1)
