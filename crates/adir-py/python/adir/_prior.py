"""Priors: networks that know what images look like."""

from __future__ import annotations

import json
from typing import Any, Mapping, Optional

import numpy as np

from . import _adir

_TYPES = {"float32": "F32", "float16": "F16", "float64": "F64"}


class Prior:
    """A loaded diffusion network of guided-diffusion's kind."""

    def __init__(self, native: _adir.Prior):
        self._native = native

    @classmethod
    def embedded(cls) -> "Prior":
        """The prior that is part of the module."""
        return cls(_adir.Prior.embedded())

    @classmethod
    def from_torch(cls, state: Mapping[str, Any], config: Optional[Mapping[str, Any]] = None) -> "Prior":
        """From a ``state_dict`` of guided-diffusion's U-Net, with its constructor's settings in ``config``
        (``model_channels``, ``channel_mult``, ``attention_resolutions`` ...). Published networks need none."""
        header, parts, at = {}, [], 0
        for name, value in state.items():
            if hasattr(value, "detach"):
                value = value.detach().cpu()
                value = value.float().numpy() if str(value.dtype) == "torch.bfloat16" else value.numpy()
            array = np.ascontiguousarray(value)
            if array.dtype.name not in _TYPES:
                raise _adir.ModelError(f"{name} is of {array.dtype}: expected floats")
            data = array.tobytes()
            offsets = [at, at + len(data)]
            header[name] = {"dtype": _TYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
            parts.append(data)
            at += len(data)
        text = json.dumps(header).encode()
        weights = b"".join([len(text).to_bytes(8, "little"), text, *parts])
        return cls(_adir.Prior.from_safetensors(weights, None if config is None else json.dumps(dict(config))))

    @property
    def config(self) -> Optional[Mapping[str, Any]]:
        """The constructor's settings, if they are known."""
        return None if self._native.config is None else json.loads(self._native.config)

    @property
    def id(self) -> str:
        """SHA-256 of the weights."""
        return self._native.id

    def denoise(self, noisy: np.ndarray, sigma: float) -> np.ndarray:
        """The mean of x given x plus white noise of standard deviation ``sigma``, as the network knows it.

        ``noisy`` is ``(n, 3, h, w)``, black at 0 and white at 1, with sides that the network accepts (multiples of 8 for the
        embedded prior); ``sigma`` is in these units, and is taken as the nearest of the network's 1000 noise levels. The result is
        float32.
        """
        noisy = np.ascontiguousarray(np.asarray(noisy, np.float32) * 2 - 1)
        if noisy.ndim != 4:
            raise _adir.ConfigError(f"an array of the shape {noisy.shape}: expected (n, 3, h, w)")
        data = self._native.denoise(noisy.tobytes(), noisy.shape, 2 * float(sigma))
        return (np.frombuffer(data, np.float32).reshape(noisy.shape) + 1) / 2
