"""What is asked of a Ray cluster."""

from dataclasses import dataclass

from ci2p_cache.errors import InputError


@dataclass(frozen=True)
class RayOptions:
    """Where the cluster is, and what an encoder takes of it."""

    address: str | None = None  # None: that of RAY_ADDRESS, else the one that runs here, else one of this machine alone
    gpus: float | None = None  # for each encoder, a share as well; None: one, where the cluster has any
    cpus: float | None = None  # for each encoder; None: those of its node, shared among its encoders
    workers: int | None = None  # decoding processes of each encoder; None: one a core, 16 at most


def options_of_launch(
    launch: str | None, address: str | None, gpus: float | None, cpus: float | None, workers: int | None
) -> RayOptions | None:
    """Of `--launch` and the options that go with it; None without it. Raises InputError for those without it."""
    if launch is not None:
        return RayOptions(address, gpus, cpus, workers)
    for option, value in (("--ray-address", address), ("--ray-gpus", gpus), ("--ray-cpus", cpus)):
        if value is not None:
            raise InputError(f"{option} {value}: that is for --launch ray; give it too, or leave the option out")
    return None
