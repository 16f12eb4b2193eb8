"""Images between numpy, PIL and the engine."""

from __future__ import annotations

import os
from typing import Any, Tuple, Union

import numpy as np

from ._adir import ConfigError, InputError

#: What is taken for an image: an array, a PIL image, or the path of a file.
Image = Union[np.ndarray, "os.PathLike[str]", str, Any]
#: The bytes of an array, its type and its shape `(h, w, c)`.
Native = Tuple[bytes, str, Tuple[int, int, int]]


def is_path(image: Image) -> bool:
    return isinstance(image, (str, os.PathLike))


def to_array(image: Image) -> np.ndarray:
    """The array of an image in memory."""
    if hasattr(image, "mode") and hasattr(image, "convert"):
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        elif image.mode == "1":
            image = image.convert("L")
        elif image.mode not in ("L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I;16L", "I;16N", "F"):
            raise InputError(f"a PIL image of mode {image.mode}: convert it to L, RGB or RGBA")
    array = np.asarray(image)
    if array.dtype == np.float64 or array.dtype == np.float16:
        array = array.astype(np.float32)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = array.astype(np.uint16)
    if array.dtype not in (np.uint8, np.uint16, np.float32):
        raise ConfigError(f"an array of {array.dtype}: expected uint8, uint16 or floats")
    if array.ndim not in (2, 3):
        raise ConfigError(f"an array of the shape {array.shape}: expected (h, w) or (h, w, c)")
    return array


def to_native(array: np.ndarray) -> Native:
    """What the engine takes for an array."""
    array = np.ascontiguousarray(array if array.ndim == 3 else array[:, :, None])
    return array.tobytes(), array.dtype.name, array.shape


def from_native(native: Native, flat: bool) -> np.ndarray:
    """The array that the engine gives; one of a single channel as `(h, w)` if `flat`."""
    data, kind, shape = native
    array = np.frombuffer(data, kind).reshape(shape).copy()
    return array[:, :, 0] if flat and shape[2] == 1 else array


def to_flags(mask: Image) -> Tuple[bytes, int, int]:
    """The pixels of a mask in memory that are not 0."""
    array = np.asarray(mask)
    if array.ndim == 3:
        array = array.any(axis=2)
    if array.ndim != 2:
        raise ConfigError(f"a mask of the shape {array.shape}: expected (h, w)")
    return np.ascontiguousarray(array != 0).astype(np.uint8).tobytes(), array.shape[0], array.shape[1]
