"""Measuring a trained model: on a cache, or on raw images through the encoder that made the cache.

`predictions` runs the model, `scores` turns probabilities into figures, `images` makes latents of raw images.
"""
