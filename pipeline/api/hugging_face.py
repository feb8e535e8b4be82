"""A cache as a dataset of the Hugging Face library, with features. The only import of it outside stage one."""

from collections.abc import Iterator
from typing import Any

from ci2p_cache.cache import Cache
from ci2p_cache.errors import InputError
from pipeline.api.view_dataset import RANDOM, ViewDataset

_ROWS_AT_ONCE = 64


def hugging_face_dataset(cache: Cache, view: str | int, *, streaming: bool) -> Any:
    """Rows of latent, label and key, in order. Raises InputError where the library is missing."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise InputError("ci2p.to_hf needs the package datasets: pip install datasets") from None
    if view == RANDOM:
        raise InputError("ci2p.to_hf(view='random'): a table holds one view of each image; name one")
    features = datasets.Features(
        {
            "latent": datasets.Array3D(cache.spec.latent_shape, "float32"),
            "label": datasets.ClassLabel(names=list(cache.classes)),
            "key": datasets.Value("string"),
        }
    )
    kind = datasets.IterableDataset if streaming else datasets.Dataset
    # Made of what is in the cache: the library finds an earlier table by a hash of these.
    made_of = {
        "samples": ViewDataset(cache, view, seed=0),
        "contents": f"{cache.spec.spec_id} {cache.manifest.contents_sha256}",
    }
    return kind.from_generator(_rows, features=features, gen_kwargs=made_of)


def _rows(samples: ViewDataset, contents: str) -> Iterator[dict[str, Any]]:
    for begin in range(0, len(samples), _ROWS_AT_ONCE):
        numbers = range(begin, min(begin + _ROWS_AT_ONCE, len(samples)))
        for number, (latent, label) in zip(numbers, samples.__getitems__(numbers), strict=True):
            yield {"latent": latent.numpy(), "label": label, "key": samples.keys[number]}
