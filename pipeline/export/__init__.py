"""Handing a trained model on: as ONNX, as a program of torch's.

`graph` is what is exported, `record` what is said of it, `agreement` holds it against ci2p's own prediction (promise
T6), `onnx_file` and `torch_program` write it, and `run` walks from one to the next.
"""
