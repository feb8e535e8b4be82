"""Handing a trained model on: as ONNX, as a program of torch's, as a folder for the Hugging Face Hub.

`graph` is what is exported, `record` what is said of it, `agreement` holds it against ci2p's own prediction (promise
T6), and `onnx_file`, `torch_program` and `hub_folder` write it.
"""
