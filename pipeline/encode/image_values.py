"""Pictures that are held in memory -> the bytes of an image file, so that they go the way that files go.

bytes                                 as they are
PIL.Image.Image                       PNG, its EXIF orientation with it; modes that PNG lacks as RGB
numpy uint8 [H,W], [H,W,1|3|4]        PNG
torch uint8 or float [1|3|4,H,W]      PNG; floats in [0,1], 1.0 is 255
"""

from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image

from ci2p_cache.errors import InputError

IMAGE_TYPES = "bytes, a PIL image, a numpy array uint8 [H,W,3] or a tensor [3,H,W], uint8 or float in [0,1]"
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
_COLOUR_MODES = ("CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa", "PA", "La")
_CHANNELS = (1, 3, 4)
_FAST = 1  # of PNG's levels: the bytes are read back at once


def is_image_value(value: Any) -> bool:
    """Whether `image_bytes` may take it: a picture in memory, rather than the path of one."""
    return isinstance(value, bytes | bytearray | memoryview | Image.Image | np.ndarray | torch.Tensor)


def image_bytes(value: Any, name: str) -> bytes:
    """An encoded image file of a picture in memory. Raises InputError, beginning with `name`, for what is none."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Image.Image):
        return _png(value, name)
    if isinstance(value, torch.Tensor):
        return _png(Image.fromarray(_from_tensor(value, name)), name)
    if isinstance(value, np.ndarray):
        return _png(Image.fromarray(_from_array(value, name)), name)
    raise InputError(f"{name}: {value!r:.80} is of type {type(value).__name__}; give {IMAGE_TYPES}")


def _png(image: Image.Image, name: str) -> bytes:
    stream = BytesIO()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        if image.mode in _COLOUR_MODES:
            image = image.convert("RGB")
        if image.mode not in _PNG_MODES:
            raise InputError(f"{name}: a PIL image of mode {image.mode} has no defined white; give it as L or RGB")
        if not orientation:
            image.save(stream, "PNG", compress_level=_FAST)
        else:
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = orientation
            image.save(stream, "PNG", compress_level=_FAST, exif=exif)
    except (OSError, SyntaxError, ValueError) as error:  # an image is opened before it is read
        raise InputError(f"{name}: the PIL image cannot be read ({' '.join(str(error).split())[:120]})") from error
    return stream.getvalue()


def _from_tensor(tensor: torch.Tensor, name: str) -> NDArray[np.uint8]:
    tensor = tensor.detach().cpu()
    if tensor.ndim != 3 or tensor.shape[0] not in _CHANNELS:
        raise InputError(f"{name}: a tensor of shape {list(tensor.shape)} is no picture; give [3,H,W]")
    if tensor.dtype.is_floating_point:
        low, high = (float(tensor.min()), float(tensor.max())) if tensor.numel() else (0.0, 0.0)
        if not (low >= 0 and high <= 1):
            raise InputError(f"{name}: a tensor of floats from {low:.4g} to {high:.4g}; give floats in [0,1], or uint8")
        tensor = (tensor.float() * 255).round().to(torch.uint8)
    if tensor.dtype is not torch.uint8:
        raise InputError(
            f"{name}: a tensor of {str(tensor.dtype).removeprefix('torch.')}; give uint8, or float in [0,1]"
        )
    return _from_array(tensor.permute(1, 2, 0).numpy(), name)


def _from_array(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise InputError(f"{name}: a numpy array of {array.dtype}; give uint8, 0 to 255")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in _CHANNELS)) or not array.size:
        raise InputError(f"{name}: a numpy array of shape {list(array.shape)} is no picture; give [H,W,3]")
    return np.ascontiguousarray(array)
