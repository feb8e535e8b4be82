"""Memory that has run out: as Python, torch and the system say it."""

import re

_WORDS = re.compile(
    "out of memory|can't allocate memory|cannot allocate memory|failed to map segment|can't start new thread"
    "|bad_alloc|bad allocation|unable to allocate|cu(blas|dnn)_status_alloc_failed",
    re.IGNORECASE,
)
_OF_GPU = re.compile("cuda|cublas|cudnn|hip out|mps backend", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that there is no memory left, on the host or a GPU."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ImportError | OSError) and _WORDS.search(str(error)) is not None
    )


def is_of_gpu(error: BaseException) -> bool:
    """Whether it is a GPU's memory that has run out."""
    return isinstance(error, RuntimeError) and _OF_GPU.search(str(error)) is not None
