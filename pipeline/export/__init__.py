"""Handing a trained model on: as ONNX, as a program of torch's, as a folder for the Hugging Face Hub.

`graph` is what is exported, `record` what is said of it, `agreement` holds it against ci2p's own prediction (promise
T6), `onnx_file` and `torch_program` write it, and `run` walks from one to the next.
`hub_folder` publishes a folder of weights, `hub_config` and `model_card`, with what `measured` finds; `hub_model` loads
one, and `hub_push` sends it.
"""
