"""Stage two: a cache becomes a trained model. It reads latents and never sees a pixel.

`recipe` says what to compute, `data` brings the batches, `window` and `augment` vary them, `loop` trains, `checkpoint`
makes a killed run whole again, and `run_folder` is where everything lands and is found again.
"""
