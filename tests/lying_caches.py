"""Caches that lie: one value of a spec, a marker or a manifest is another, and every seal holds again."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from ci2p_cache.marker import ShardRecord
from ci2p_cache.seals import seal_json, seal_of, unseal_json
from ci2p_cache.shard_table import SHARDS, row_of
from ci2p_cache.stored_labels import LABELS, checksum_of

LIES: list[Any] = [
    None, True, 0, -1, 1, 2, 3, 31, 64, 10**6, 2**31, 2**63, -(2**63) - 1, 2**70, 0.5, -1e308, 1e308,
    "", ".", "..", "../../spec.json", "/dev/zero", "/etc/passwd", "000009.tar", "latents.zarr/latents/c/9/0/0/0/0",
    "a\0b", "\x1b[31mred\x1b[0m\n", "A" * 5000, "plain", "zarr", "webdataset", "int", "rans", "float16", "train",
    "0" * 64, [], {}, [[]], [0], [None], ["\u202e"], [[-1, 2**70]], [[0, 0, 0, 1]], {"a": 1}, [{"a": [1] * 9}],
]  # fmt: skip


def lie(split_dir: Path, seed: int) -> str:
    """Changes one value below a split's folder, as `seed` has it, and seals all anew. Returns what was done."""
    rng = random.Random(seed)
    bodies = {path: _read(path) for path in [*_json_files(split_dir)]}
    manifest_path = split_dir / "manifest.json"
    path = rng.choice([manifest_path, manifest_path, split_dir / "spec.json", *bodies])
    holder, key = _place(rng, bodies[path])
    done = _change(rng, holder, key)
    if path.name == "spec.json" and rng.random() < 0.8:  # the same lie everywhere
        spec = bodies[path]
        bodies[manifest_path]["spec"] = spec
        canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"))
        spec_id = hashlib.sha256(canonical.encode()).hexdigest()[:16]
        for other, body in bodies.items():
            if other.name != "spec.json":
                body["spec_id"] = spec_id
    elif path.parent.name == "shards" and rng.random() < 0.7:
        _agree(split_dir, bodies[manifest_path], bodies[path])
    _seal(split_dir, bodies)
    return f"{path.name}: {done}"


def _json_files(split_dir: Path) -> list[Path]:
    return [split_dir / "manifest.json", split_dir / "spec.json", *sorted((split_dir / "shards").glob("*.json"))]


def _read(path: Path) -> Any:
    data = path.read_bytes()
    return json.loads(unseal_json(data) or data)


def _place(rng: random.Random, body: Any) -> tuple[Any, Any]:
    """A container in a tree, and one of its keys or indices: at every level as likely to stop as to go on."""
    holder, key = body, rng.choice(list(body))
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.6:
        holder = holder[key]
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    return holder, key


def _change(rng: random.Random, holder: Any, key: Any) -> str:
    value, kind = holder[key], rng.randrange(6)
    if kind == 0:
        del holder[key]
        return f"without {key}"
    if kind == 1 and isinstance(value, list):
        extra = value * rng.choice([1, 9]) if len(value) else [0]
        holder[key] = value + extra if rng.random() < 0.5 else value[: rng.randrange(len(value) + 1)]
        return f"{key} of {len(holder[key])} entries instead of {len(value)}"
    if kind == 2 and isinstance(value, int | float) and value:
        holder[key] = rng.choice([value + 1, value - 1, -value, value * 2])
    elif kind == 3 and isinstance(holder, dict):
        holder[f"{key}_"] = value
        return f"{key}_ beside {key}"
    else:
        holder[key] = rng.choice(LIES)
    return f"{key}: {value!r:.40} -> {holder[key]!r:.40}"


def _agree(split_dir: Path, manifest: Any, marker: Any) -> None:
    """Has the manifest's arrays say what a marker says of its shard, as far as either can be understood."""
    try:
        number, size = marker["shard"], manifest["spec"]["shard_size"]
        labels = np.load(split_dir / LABELS)
        labels[number * size : (number + 1) * size] = marker["labels"]
        rows = np.load(split_dir / SHARDS)
        rows[number] = row_of(
            ShardRecord.model_validate(marker["record"]), None, checksum_of(np.array(marker["labels"]))
        )
    except (KeyError, TypeError, IndexError, ValueError, OverflowError):
        return
    np.save(split_dir / LABELS, labels)
    np.save(split_dir / SHARDS, rows)


def _seal(split_dir: Path, bodies: dict[Path, Any]) -> None:
    manifest_path = split_dir / "manifest.json"
    files = bodies[manifest_path].get("files") if isinstance(bodies[manifest_path], dict) else None
    for path, body in bodies.items():
        data = json.dumps(body, separators=(",", ":")).encode()
        if path == manifest_path:
            continue
        path.write_bytes(data if path.name == "spec.json" or len(data) < 3 else seal_json(data))
        if path.parent.name == "shards":
            rows = np.load(split_dir / SHARDS)
            seal = seal_of(path.read_bytes())
            rows[int(path.stem)]["marker_sha256"] = np.frombuffer(bytes.fromhex(seal.sha256), np.uint8)
            rows[int(path.stem)]["marker_bytes"] = seal.num_bytes
            np.save(split_dir / SHARDS, rows)
    if isinstance(files, dict):
        files |= {name: seal_of((split_dir / name).read_bytes()) for name in ("spec.json", SHARDS, LABELS)}
    data = json.dumps(bodies[manifest_path], separators=(",", ":")).encode()
    manifest_path.write_bytes(seal_json(data) if len(data) > 2 else data)
