"""Bytes that somebody else made, or made to do harm, never reach C code unchecked."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numcodecs import Blosc

from ci2p_cache import blosc_buffer, codecs
from ci2p_cache.errors import WorkError
from ci2p_cache.rans import ShardCoder

RNG = np.random.default_rng(5)
VIEW = np.minimum(RNG.geometric(0.4, (192, 8, 8)), 255).astype(np.uint8)
NOISE = RNG.integers(0, 256, (192, 8, 8), dtype=np.uint8)  # does not compress: its buffer is a copy
COUNTS = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in VIEW]).astype(np.int64)


def with_uint32(buffer: bytes, at: int, value: int) -> bytes:
    return buffer[:at] + (value % 2**32).to_bytes(4, "little") + buffer[at + 4 :]


def with_byte(buffer: bytes, at: int, value: int) -> bytes:
    return buffer[:at] + bytes([value]) + buffer[at + 1 :]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda b: with_byte(b, 0, 9), "version"),
        (lambda b: with_byte(b, 2, b[2] | 0x02), "bytes of a copied buffer"),
        (lambda b: with_byte(b, 2, b[2] & ~0x04), "flags"),  # not shuffled
        (lambda b: with_byte(b, 2, b[2] | 0x01), "flags"),  # shuffled twice
        (lambda b: with_byte(b, 2, b[2] & 0x1F), "flags"),  # another compressor
        (lambda b: with_byte(b, 3, 8), "bytes a value"),
        (lambda b: with_uint32(b, 4, VIEW.nbytes - 64), "decoded bytes"),
        (lambda b: with_uint32(b, 4, VIEW.nbytes + 64), "decoded bytes"),
        (lambda b: with_uint32(b, 4, 2**31 - 1), "decoded bytes"),
        (lambda b: with_uint32(b, 8, 0), "bytes a block"),
        (lambda b: with_uint32(b, 8, 2**31), "bytes a block"),
        (lambda b: with_uint32(b, 8, 1), "blocks"),
        (lambda b: with_uint32(b, 8, 1024), "block"),
        (lambda b: with_uint32(b, 12, len(b) + 4096), "bytes of the buffer"),
        (lambda b: with_uint32(b, 12, 16), "bytes of the buffer"),
        (lambda b: with_uint32(b, 16, 0), "beginning of block 0"),
        (lambda b: with_uint32(b, 16, len(b)), "beginning of block 0"),
        (lambda b: with_uint32(b, 16, -4), "beginning of block 0"),
        (lambda b: with_uint32(b, 20, len(b)), "length of block 0"),
        (lambda b: with_uint32(b, 20, VIEW.nbytes), "length of block 0"),
        (lambda b: with_uint32(b, 20, -1), "length of block 0"),
        (lambda b: with_uint32(b, 20, 0), "length of block 0"),
        (lambda b: b[:15], "header"),
        (lambda b: b + b"more", "bytes of the buffer"),
    ],
)
def test_a_header_that_lies_is_named(change: Callable[[bytes], bytes], named: str) -> None:
    out = np.zeros_like(VIEW)
    with pytest.raises(WorkError, match=rf"{named}.*ci2p verify"):
        codecs.unpack(memoryview(change(codecs.pack(VIEW, "int"))), out, "int")
    assert not out.any()


@pytest.mark.parametrize("values", [VIEW, NOISE])
def test_a_view_of_another_size_leaves_no_memory_unwritten(values: np.ndarray) -> None:
    for size in (191, 96, 1):
        with pytest.raises(WorkError, match="decoded bytes"):
            codecs.unpack(memoryview(codecs.pack(values[:size], "int")), np.empty_like(values), "int")


@pytest.mark.parametrize("level", [1, 9])
@pytest.mark.parametrize("shape", [(1, 1), (3, 43), (7, 9001), (192, 4096), (1, 2_000_003)])
@pytest.mark.parametrize(("dtype", "shuffle"), [("u1", Blosc.BITSHUFFLE), ("<i8", Blosc.SHUFFLE)])
def test_whatever_blosc_writes_is_read(shape: tuple[int, int], dtype: str, shuffle: int, level: int) -> None:
    """Several blocks, a shorter last one, parts of a block: all that its headers may rightly say."""
    for values in (np.zeros(shape, dtype), np.arange(np.prod(shape)).reshape(shape).astype(dtype)):
        out = np.empty_like(values)
        buffer = Blosc(cname="zstd", clevel=level, shuffle=shuffle).encode(values)
        blosc_buffer.decode(memoryview(buffer), out, shuffle)
        assert np.array_equal(out, values)


# In a process of its own: what this finds ends in SIGSEGV. All of it has to be WorkError or values.
_DAMAGE = """
import numpy as np, sys
from ci2p_cache import codecs
from ci2p_cache.errors import WorkError
from ci2p_cache.rans import ShardCoder
from tests.test_foreign_bytes import COUNTS, NOISE, VIEW, with_byte, with_uint32
rng = np.random.default_rng(1)
coder = ShardCoder(COUNTS)
cases = [
    (codecs.pack(VIEW, "int"), lambda buffer: codecs.unpack(buffer, np.empty_like(VIEW), "int")),
    (codecs.pack(NOISE, "int"), lambda buffer: codecs.unpack(buffer, np.empty_like(VIEW), "int")),
    (coder.pack(VIEW), lambda buffer: coder.unpack(buffer, np.empty_like(VIEW))),
    (coder.tables(), lambda buffer: ShardCoder.from_tables(buffer, 192).unpack(coder.pack(VIEW), np.empty_like(VIEW))),
]
lies = [0, 1, 2, 16, 127, 128, 2**15, 2**31 - 1, 2**31, 2**32 - 1]
refused = 0
for number in range(1200):
    buffer, decode = cases[number % 4]
    kind = rng.integers(4)
    if kind == 0:
        buffer = with_byte(buffer, int(rng.integers(len(buffer))), int(rng.integers(256)))
    elif kind == 1:
        buffer = with_uint32(buffer, int(rng.integers(9)) * 4, int(rng.choice([*lies, len(buffer), len(buffer) - 4])))
    elif kind == 2:
        buffer = buffer[: rng.integers(len(buffer))]
    else:
        for _ in range(3):
            buffer = with_byte(buffer, int(rng.integers(40)), int(rng.integers(256)))
    try:
        decode(memoryview(buffer))
    except WorkError as error:
        assert "\\n" not in str(error) and "ci2p verify" in str(error)
        refused += 1
print(refused)
"""


def test_of_a_thousand_damages_each_is_values_or_an_error() -> None:
    done = subprocess.run([sys.executable, "-c", _DAMAGE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    assert int(done.stdout) > 800


def test_tables_that_lie_are_refused() -> None:
    """Counts below zero, beyond all bounds, of other channels, or as no shard could have counted them."""
    whole = ShardCoder(COUNTS).tables()
    for channels in (191, 193):
        with pytest.raises(WorkError, match=r"tables of a rans shard are damaged: .* decoded bytes"):
            ShardCoder.from_tables(memoryview(whole), channels)
    encode = Blosc(cname="zstd", clevel=8, shuffle=Blosc.SHUFFLE).encode
    for value in (-1, 2**62, int(COUNTS[3, 1]) + 1):
        counts = COUNTS.copy()
        counts[3, 1] = value
        with pytest.raises(WorkError, match="tables of a rans shard are damaged: counts from"):
            ShardCoder.from_tables(memoryview(encode(counts)), 192)


def test_a_value_that_a_shard_does_not_have_is_noticed() -> None:
    """The coder leaves room for values that never occur; a buffer that holds one was not made of this shard."""
    view, other = VIEW.copy(), VIEW.copy()
    view[view == 2], other[:, 0, 0] = 1, 2
    view[:, 0, 1] = other[:, 0, 1] = 9
    counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in view]).astype(np.int64)
    coder = ShardCoder(counts)
    with pytest.raises(WorkError, match="values that its shard does not have"):
        coder.unpack(memoryview(coder.pack(other)), np.empty_like(view))
