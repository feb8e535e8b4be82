"""The cache that the two stages meet in: what a latent is, how it is stored, in which order it comes back.

The walk of the data: `spec` says what was encoded, `plan` cuts the items into shards, `codecs` turns latents into
stored values, `escapes` keeps what these do not hold, `rans` codes a shard of them for an archive, `zarr_store` and
`tar_store` write it, `manifest` commits it, `reader` fetches views at random, `order` says which sample comes when, and
`loader` makes batches of them on the device.
"""
