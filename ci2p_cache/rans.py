"""The archive store: the stored values of a shard, coded down to their entropy. The only import of constriction.

    every view, uint8 [C, H, W]  --counted, channel by channel-->  counts [C, 256]  --Blosc-->  the shard's tables
    one view  --rANS under these-->  32-bit words  -->  its buffer: how many, uint32, then they, little-endian

A shard carries its own tables, so it needs neither the encoder's weights nor another shard, and any view of it is read
by itself.

A buffer decodes to the same values on every machine, for only integers decide: the counts of a channel are scaled to
`symbol_weights`, and a value of weight w has the probability (w + 1) / 2**24. constriction takes weights as float64,
scales them so that they sum to 2**24 - n (n values), and adds one to each; these sum to that already, so its scale is
1.0 and every partial sum an integer below 2**24: there is nothing to round. The coder is plain rANS, its state of 64
bits beginning at 0; a test decodes it with Python's integers alone.
"""

from collections.abc import Sequence

import numpy as np
from constriction import stream
from numcodecs import Blosc
from numpy.typing import NDArray

from ci2p_cache import blosc_buffer, codecs
from ci2p_cache.errors import WorkError

PRECISION_BITS = 24
_VALUES = 256
_COUNT_BYTES = 4  # of a buffer: the number of words
_MOST_COUNTED = 2**38  # of a value in a channel: no weight leaves 64 bits, nor does any sum
_BLOSC = Blosc(cname="zstd", clevel=8, shuffle=Blosc.SHUFFLE)


class ShardCoder:
    """Codes the views of one shard. Safe to share among threads, which take turns: constriction keeps the GIL."""

    def __init__(self, counts: NDArray[np.int64]):
        """`counts` [C, 256]: how often each channel of the shard holds each value."""
        self._counts = counts
        self._occurs = counts > 0  # [C, 256]
        self._only = counts.argmax(axis=1).tolist()  # of a channel that holds one value alone, which costs no bits
        self._models = [
            stream.model.Categorical(symbol_weights(channel).astype(np.float64), perfect=False)
            if np.count_nonzero(channel) > 1
            else None
            for channel in counts
        ]

    @classmethod
    def from_tables(cls, tables: memoryview, channels: int) -> "ShardCoder":
        """From what `tables` gave of so many channels, whatever follows it. Raises WorkError when it is damaged."""
        counts = np.empty((channels, _VALUES), "<i8")
        try:
            blosc_buffer.decode(tables[: blosc_buffer.buffer_bytes(tables)], counts, Blosc.SHUFFLE)
        except WorkError as error:
            raise WorkError(f"the tables of a rans shard are damaged: {error}") from error
        least, most = int(counts.min()), int(counts.max())
        if least < 0 or most > _MOST_COUNTED or np.ptp(counts.sum(axis=1)) > 0:  # each channel has as many values
            raise WorkError(
                f"the tables of a rans shard are damaged: counts from {least} to {most} that do not add up to the "
                "same in every channel; run `ci2p verify`"
            )
        return cls(counts.astype(np.int64))

    def tables(self) -> bytes:
        """The counts, compressed: one Blosc buffer, which says how long it is."""
        return bytes(_BLOSC.encode(np.ascontiguousarray(self._counts, dtype="<i8")))

    def pack(self, view: NDArray[np.uint8]) -> bytes:
        """One stored view [C, H, W], of those that were counted -> its buffer."""
        coder = stream.stack.AnsCoder()
        symbols = view.reshape(len(view), -1).astype(np.int32)
        for model, channel in zip(reversed(self._models), symbols[::-1], strict=True):  # last in, first out
            if model is not None:
                coder.encode_reverse(channel, model)
        words: NDArray[np.uint32] = coder.get_compressed()
        return len(words).to_bytes(_COUNT_BYTES, "little") + words.astype("<u4").tobytes()

    def unpack(self, buffer: memoryview, out: NDArray[np.generic]) -> None:
        """Decodes a buffer of `pack` into `out`, uint8 [C, H, W]. Raises WorkError when the buffer is damaged."""
        words, channels = buffer[_COUNT_BYTES:], out.reshape(len(out), -1)
        said = _COUNT_BYTES + 4 * int.from_bytes(buffer[:_COUNT_BYTES], "little")
        if len(buffer) != said or len(out) != len(self._models):
            raise WorkError("a stored view is not as long as it says; run `ci2p verify`")
        try:
            coder = stream.stack.AnsCoder(np.frombuffer(words, "<u4").astype(np.uint32))
        except ValueError as error:
            raise WorkError(f"a stored view cannot be decoded ({error}); run `ci2p verify`") from error
        for channel, model, only in zip(channels, self._models, self._only, strict=True):
            channel[:] = only if model is None else coder.decode(model, len(channel))
        if not coder.is_empty():
            raise WorkError("a stored view does not end where its values do; run `ci2p verify`")
        # The coder leaves a little room for every value up to the largest, and the shard was counted.
        if not self._occurs[np.arange(len(out))[:, None], channels].all():
            raise WorkError("a stored view has values that its shard does not have; run `ci2p verify`")


def symbol_weights(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts [256] of at least one value -> weights int64 [n] of values 0 to n - 1; with one each, they sum to 2**24.

    n - 1 is the largest value that occurs; what rounding down leaves goes to the most frequent one.
    """
    num_values = int(np.flatnonzero(counts)[-1]) + 1
    free = (1 << PRECISION_BITS) - num_values
    weights: NDArray[np.int64] = counts[:num_values] * free // counts.sum()
    weights[weights.argmax()] += free - weights.sum()
    return weights


def code_shard(
    rows: Sequence[Sequence[bytes] | None], latent_shape: tuple[int, int, int]
) -> tuple[list[Sequence[bytes] | None], bytes]:
    """(rows, tables) of a shard from its views' buffers as `codecs.pack` gives them, None where the image failed.

    Holds one decoded view at a time: of a shard of 1,024 images with ten crops, all would take a gigabyte.
    """
    view = np.empty(latent_shape, np.uint8)
    channels, base = view.reshape(len(view), -1), _VALUES * np.arange(len(view))[:, None]
    counts = np.zeros(len(view) * _VALUES, np.int64)
    for buffers in rows:
        for buffer in buffers or ():
            codecs.unpack(memoryview(buffer), view, "rans")
            counts += np.bincount((base + channels).ravel(), minlength=len(counts))
    coder = ShardCoder(counts.reshape(-1, _VALUES))

    def code(buffer: bytes) -> bytes:
        codecs.unpack(memoryview(buffer), view, "rans")
        return coder.pack(view)

    return [None if row is None else [code(buffer) for buffer in row] for row in rows], coder.tables()
