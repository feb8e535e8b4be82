"""A Ray cluster that is reached, or begun on this machine, for as long as it is wanted."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator

from ci2p_cache.errors import InputError
from ci2p_cache.extras import not_installed
from ci2p_cache.printable import printable
from pipeline.encode.ray_cluster import RayCluster
from pipeline.encode.ray_encoder import EncoderSettings
from pipeline.encode.ray_options import RayOptions

_CONNECTING_S = 10.0


@contextlib.contextmanager
def ray_cluster(options: RayOptions, settings: EncoderSettings) -> Iterator[RayCluster]:
    """A cluster that is reached, or one of this machine that is started, for as long as the context lasts.

    What Ray prints meanwhile is dropped: standard output is for what the command says. Raises InputError where ray is
    not installed, and where no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise not_installed("ray", "--launch ray", error) from error
    _check(options, settings)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        is_ours = not ray.is_initialized()
        if is_ours:
            _check_address(options.address)
            try:
                with _keeping_sigterm():
                    ray.init(address=options.address, logging_level=logging.CRITICAL, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError, OSError, AssertionError) as error:
                where = f"--ray-address {printable(options.address)}" if options.address else "--launch ray"
                raise InputError(
                    f"{where}: no Ray cluster answers ({printable(' '.join(str(error).split()))[:200]}); begin one "
                    "with ray start --head, and give HOST:6379 or leave the option out there"
                ) from error
        cluster = RayCluster(options, settings)
        try:
            yield cluster
        finally:
            cluster.end()
            if is_ours:
                ray.shutdown()


@contextlib.contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and would end the process with a trace of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_address(address: str | None) -> None:
    """Raises InputError where nobody listens at HOST:PORT: Ray itself would wait for minutes."""
    host, _, port = (address or "").rpartition(":")
    if "://" in host or not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECTING_S).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"--ray-address {printable(address or '')}: nobody listens there ({why}); "
            "begin a cluster with ray start --head, and give the address that it prints"
        ) from error


def _check(options: RayOptions, settings: EncoderSettings) -> None:
    kind, _, index = settings.device.partition(":")
    if index or kind not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"--device {settings.device}: with --launch ray, which chooses the GPUs, give auto, cpu or cuda"
        )
    if options.gpus is not None and kind == "cpu":
        raise InputError(f"--ray-gpus {options.gpus:g} and --device cpu: leave one of them out")
    if options.gpus is not None and options.gpus > 1:
        raise InputError(f"--ray-gpus {options.gpus:g}: an encoder computes on one GPU; give 1, or a share such as 0.5")
