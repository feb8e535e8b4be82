"""`ci2p checks`: what this machine has and lacks; the first thing in a bug report."""

import time
from dataclasses import asdict

import click

from pipeline.commands.command import Command
from pipeline.commands.options import json_option
from pipeline.commands.output import print_line, write_json

_IMAGES, _IMAGE_SIZE = 8, 256


@click.command(cls=Command, short_help="What this machine has and lacks.")
@json_option
def checks(json_file: str | None) -> None:
    """What this machine has and lacks: versions, cores, memory, GPUs, extras, and how quickly it encodes.

    Put it first in a bug report.
    """
    from pipeline.running.machine import describe_machine, look_at_machine

    machine = look_at_machine()
    for line in describe_machine(machine):
        print_line(json_file, line)
    rate, device = _encoding_rate()
    minutes = 1000 / rate / 60
    print_line(
        json_file,
        f"speed      encode: {rate:.1f} images/s on {device} ({_IMAGE_SIZE} px, float32, both views, decoding not "
        f"counted): {minutes:.1f} minutes for 1,000 images",
    )
    write_json(json_file, asdict(machine) | {"encode_images_per_s": rate, "device": device})


def _encoding_rate() -> tuple[float, str]:
    """Images/s of the bundled encoder on what `--device auto` is, after one batch to warm up."""
    import torch

    from pipeline.encode.encoder import load_encoder

    encoder = load_encoder("bundled")
    pixels = torch.randint(0, 256, (_IMAGES, 3, _IMAGE_SIZE, _IMAGE_SIZE), dtype=torch.uint8)
    for _ in range(2):
        begin = time.monotonic()
        encoder.views(pixels, ("plain", "mirror")).sum().item()  # which waits for the device
        seconds = time.monotonic() - begin
    return _IMAGES / seconds, str(encoder.device)
