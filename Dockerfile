# ci2p on a machine with NVIDIA's container toolkit: docs/docker.md. torch's own packages bring the CUDA runtime along,
# and the driver's libraries come from the host, so that a plain Python below is enough.
FROM python:3.13-slim-trixie

# The compiler is for torch.compile.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# What is installed changes seldomer than ci2p: its requirements are a layer of their own.
WORKDIR /opt/ci2p
COPY constraints constraints
COPY pyproject.toml README.md LICENSE ci2p.py cli.py ./
RUN mkdir ci2p_cache pipeline \
    && pip install --no-cache-dir --constraint constraints/py313.txt '.[export,tensorboard]' \
    && pip uninstall --yes ci2p

# The encoder's weights are part of the package: nothing is fetched at run time.
COPY ci2p_cache ci2p_cache
COPY pipeline pipeline
RUN pip install --no-cache-dir --no-deps . \
    && useradd --create-home --uid 1000 ci2p

USER 1000
WORKDIR /data
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["ci2p"]
CMD ["--help"]
