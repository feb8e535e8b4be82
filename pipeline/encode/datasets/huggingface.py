"""Image sets of the Hugging Face hub, or saved on disk, through the `datasets` library (an optional extra)."""

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.found import WHOLE, FoundImages
from pipeline.encode.datasets.split import UNKNOWN_STAMP, SourceSplit, Stamp, sorted_split

LAYOUT = "give a name on the hub (such as frgfm/imagenette), a local folder of images, or one made by save_to_disk"


@dataclass(frozen=True, eq=False)
class TableImages:
    """An ImageSource: an image column, undecoded, of a `datasets.Dataset` (memory-mapped, so cheap to pickle)."""

    table: Any
    column: str

    def read(self, row: int) -> bytes:
        image = self.table[row][self.column]
        if image is None:
            raise OSError(f"row {row} has no image")
        data: bytes | None = image["bytes"]
        return Path(image["path"]).read_bytes() if data is None else data

    def stamp(self, row: int) -> Stamp:
        return UNKNOWN_STAMP


def find_huggingface(data_dir: str | None, seed: int) -> FoundImages:
    """A data set with an image column and a ClassLabel column; of several, the first image and "label", or the first.

    Raises InputError, also when the extra is not installed.
    """
    if data_dir is None:
        raise InputError(f"--dataset huggingface needs --data-dir; {LAYOUT}")
    tables = _load_tables(data_dir)
    names = {"train": "train", "test": "test"}
    names["val"] = next((name for name in ("validation", "valid", "val") if name in tables), "validation")
    names = {split: name for split, name in names.items() if name in tables}
    if not names:
        raise InputError(f"--data-dir {data_dir}: there is no train split, only {', '.join(sorted(tables))}; {LAYOUT}")
    if list(names) == ["train"]:
        names = {WHOLE: "train"}

    @cache
    def open_part(part: str) -> SourceSplit:
        split = _open_table(tables[names[part]], data_dir)
        first = next(iter(names))
        if part != first and split.classes != open_part(first).classes:
            raise InputError(f"--data-dir {data_dir}: {first} and {names[part]} name their classes differently")
        return split

    return FoundImages(
        layout="a table of images",
        parts={part: partial(open_part, part) for part in names},
        called=names,
        expected=LAYOUT,
    )


def _load_tables(data_dir: str) -> dict[str, Any]:
    try:
        import datasets  # heavy, and an extra
    except ModuleNotFoundError:
        raise InputError("--dataset huggingface needs an extra: pip install 'ci2p[huggingface]'") from None
    except ImportError as error:
        raise InputError(
            f"--dataset huggingface: the library `datasets` is installed and does not load: {error}"
        ) from error
    folder = Path(data_dir).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            loaded = datasets.load_from_disk(str(folder))
        else:
            loaded = datasets.load_dataset(str(folder) if folder.is_dir() else data_dir)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        text = " ".join(str(error).split())[:300]
        raise InputError(f"--data-dir {data_dir}: cannot be loaded ({text}); {LAYOUT}") from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _open_table(table: Any, data_dir: str) -> SourceSplit:
    import datasets

    features = table.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not images or not labels:
        what = "image" if not images else "ClassLabel"
        raise InputError(f"--data-dir {data_dir}: no {what} column among {', '.join(features)}; both kinds are needed")
    label_column = "label" if "label" in labels else labels[0]
    values: list[int | None] = table.select_columns([label_column])[:][label_column]
    known = [value for value in values if value is not None and value >= 0]
    if not known or len(known) < len(values):
        raise InputError(
            f"--data-dir {data_dir}: some images have no label (-1 in {label_column}); use a split that has"
        )
    keys = [f"{row:09d}" for row in range(len(values))]
    source = TableImages(
        table.cast_column(images[0], datasets.Image(decode=False)).select_columns(images[0]), images[0]
    )
    return sorted_split(tuple(features[label_column].names), keys, known, source)
