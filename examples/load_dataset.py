"""A cache of tars in Hugging Face's datasets, without ci2p: python examples/load_dataset.py CACHE"""

import json
import sys
from pathlib import Path

import numcodecs
import numpy as np
from datasets import load_dataset

split = Path(sys.argv[1]) / "train"
spec = json.loads((split / "spec.json").read_text())
shape = (192, spec["image_size"] // 16, spec["image_size"] // 16)
num_views, step = len(spec["views"]), spec["step"]
tars = sorted(map(str, split.glob("*.tar")))
records = load_dataset("webdataset", data_files={"train": tars}, split="train", streaming=True)

count = 0
for record in records:  # of 64 images (--record-images), each with its views, one buffer after another
    buffers = record["latents"]
    for key, label in zip(record["json"]["keys"], record["json"]["labels"], strict=True):
        for view in range(num_views):
            size = int.from_bytes(buffers[12:16], "little")  # of a Blosc buffer, which says so
            stored = np.frombuffer(numcodecs.Blosc().decode(buffers[:size]), "uint8").astype("int16")
            buffers = buffers[size:]
            latent = (((stored >> 1) ^ -(stored & 1)) * np.float32(step)).reshape(shape)
            if count == 0 and view == 0:
                print(f"{key}, label {label}: latent {latent.shape}, {latent.min():.0f} to {latent.max():.0f}")
        count += 1
print(f"{count} images")
