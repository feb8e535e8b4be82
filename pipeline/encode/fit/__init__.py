"""Training a codec on one's own images, so that its encoder can be frozen: `ci2p fit-encoder`."""
