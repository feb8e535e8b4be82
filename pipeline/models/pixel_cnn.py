"""The sceptic's baselines: plain convolutional networks of timm's on pixels, which learn small data sets best of all.

    pixels [B,3,S,S] -> stem and four stages -> [B,D,S/32,S/32] -> mean -> linear -> logits [B,K]

Pixels are floats in [0,1] and are not normalised: a BatchNorm stands behind the first convolution. `resnet50d` is the
nearest of timm's to fastai's xresnet50: the same three convolutions (32, 32, 64) in front, the stride in the middle
convolution of a block, and an average pool in the shortcut. It differs in the shortcut, where timm pools in front of
the 1 x 1 convolution and fastai behind its norm, at four times the operations there, and in how the classifier begins.
"""

import timm
from timm.models.resnet import ResNet

NAMES = ("resnet18", "resnet50d")


def pixel_cnn(name: str, *, num_classes: int, drop_path: float) -> ResNet:
    """Builds the model of a name in `NAMES`, for images of every size; `drop_path` as `create_model` has it."""
    model = timm.create_model(name, num_classes=num_classes, drop_path_rate=drop_path)
    assert isinstance(model, ResNet), name
    return model
