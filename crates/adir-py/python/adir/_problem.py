"""What was measured: the degradation by name, or an operator written in Python."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional, Sequence, Tuple, Union

import numpy as np

from . import _adir
from ._arrays import Image, is_path, to_array, to_flags

Shape = Tuple[int, ...]


class Operator:
    """A linear operator A and its transpose, as two functions of arrays.

    ``apply`` takes an image of the shape ``domain``, ``(h, w)`` or ``(h, w, 3)``, in float64, and returns what is measured of
    it, an array of any shape with one to three axes. ``adjoint`` takes such an array and returns an image. Both must be
    linear: ``apply(0)`` is 0. ``hint`` tells the sampler what kind of operator it is: ``"blurs"``, ``"hides"`` (pixels),
    ``"shrinks:4"``, ``"drops_colour"``, ``"identity"`` or ``"unknown"``.
    """

    def __init__(
        self,
        apply: Callable[[np.ndarray], np.ndarray],
        adjoint: Callable[[np.ndarray], np.ndarray],
        domain: Sequence[int],
        hint: str = "unknown",
    ):
        self.apply, self.adjoint, self.hint = apply, adjoint, hint
        self.domain: Shape = tuple(int(side) for side in domain)
        if len(self.domain) not in (2, 3) or self.domain[2:] not in ((), (3,)) or min(self.domain) < 1:
            raise _adir.ConfigError(f"the domain {self.domain}: expected (h, w) or (h, w, 3)")
        #: The shape of what is measured.
        self.range: Shape = self._measured(np.zeros(self.domain)).shape

    def _measured(self, x: np.ndarray) -> np.ndarray:
        y = np.asarray(self.apply(x), np.float64)
        if y.ndim not in (1, 2, 3) or y.size == 0:
            raise _adir.ConfigError(f"apply returns an array of the shape {y.shape}: expected one to three axes")
        return y

    def _native_range(self) -> Tuple[int, int, int]:
        """As `(c, h, w)`; the last of three axes is that of channels, as in images."""
        if len(self.range) == 3:
            return self.range[2], self.range[0], self.range[1]
        return (1, 1, self.range[0]) if len(self.range) == 1 else (1, *self.range)

    def to_native(self, y: np.ndarray) -> np.ndarray:
        """What is measured, as `(1, c, h, w)`."""
        y = np.asarray(y, np.float64)
        if y.shape != self.range:
            raise _adir.ConfigError(f"y has the shape {y.shape}, but apply returns {self.range}")
        y = np.moveaxis(y, 2, 0) if y.ndim == 3 else y
        return np.ascontiguousarray(y).reshape(1, *self._native_range())

    def _from_native(self, y: np.ndarray) -> np.ndarray:
        c, h, w = self._native_range()
        y = y.reshape(c, h, w)
        return np.moveaxis(y, 0, 2) if len(self.range) == 3 else y.reshape(self.range)

    def _native_apply(self, data: bytes, shape: Tuple[int, int, int, int]) -> bytes:
        # An image without an axis of channels is the mean of those that the network makes.
        def one(x: np.ndarray) -> np.ndarray:
            return self.to_native(self._measured(np.moveaxis(x, 0, 2) if len(self.domain) == 3 else x.mean(axis=0)))

        images = np.frombuffer(data, np.float64).reshape(shape)
        return b"".join(one(x.copy()).tobytes() for x in images)

    def _native_adjoint(self, data: bytes, shape: Tuple[int, int, int, int]) -> bytes:
        def one(y: np.ndarray) -> np.ndarray:
            x = np.asarray(self.adjoint(self._from_native(y)), np.float64)
            if x.shape != self.domain:
                raise _adir.ConfigError(f"adjoint returns the shape {x.shape}: expected {self.domain}")
            x = np.moveaxis(x, 2, 0) if len(self.domain) == 3 else np.stack([x / 3] * 3)
            return np.ascontiguousarray(x)

        measured = np.frombuffer(data, np.float64).reshape(shape)
        return b"".join(one(y.copy()).tobytes() for y in measured)

    def described(self) -> Tuple[Any, Any, Tuple[int, int, int], Tuple[int, int, int]]:
        """What the engine takes for it."""
        return self._native_apply, self._native_adjoint, (3, *self.domain[:2]), self._native_range()

    def dot_test(self, seed: int = 0, draws: int = 8) -> float:
        """The worst relative gap between <A x, y> and <x, A^T y> over random pairs; below 1e-12 for an exact transpose."""
        return _adir.dot_test(self.described(), seed, draws)


class Problem:
    """A degradation, and the noise after it.

    ``task`` is ``"sr2"`` to ``"sr16"`` (bicubic down-sampling), ``"deblur"``, ``"inpaint"``, ``"denoise"``, ``"colourise"``, or an
    `Operator`.

    * ``kernel``: of a blur, or of the blur before a down-sampling: ``"box:5"``, ``"gaussian:15:1.6"``, ``"motion:9:30"``, the path of a
      file, or an array of weights.
    * ``mask``: pixels missing in an inpainting: an array in which they are not 0, or the path of an image.
    * ``ignore``: pixels of y that were not measured, whatever the task.
    * ``sigma``: standard deviation of the noise, in grey levels of 0..255 whatever the type of y, or ``"auto"``; by default it
      is estimated for blurs and noise, and 0 for other tasks.
    * ``gain``: grey levels of a counted photon; the variance of the noise is gain times signal plus sigma^2.
    * ``boundary``: what a blur saw beyond the border: ``"valid"``, ``"circular"``, ``"reflect-101"`` or ``"constant:VALUE"``.
    * ``linear_light``: whether the operator acts on light, with y encoded by sRGB's tone curve.
    """

    def __init__(
        self,
        task: Union[str, Operator],
        *,
        kernel: Union[None, str, np.ndarray, Any] = None,
        mask: Optional[Image] = None,
        ignore: Optional[Image] = None,
        sigma: Union[None, float, str] = None,
        gain: Optional[float] = None,
        boundary: Optional[str] = None,
        linear_light: bool = False,
        keep_margin: bool = False,
    ):
        self.operator = task if isinstance(task, Operator) else None
        if self.operator is not None:
            given = {"kernel": kernel, "mask": mask, "boundary": boundary}
            given.update(linear_light=linear_light or None, keep_margin=keep_margin or None)
            for name, value in given.items():
                if value is not None:
                    raise _adir.ConfigError(f"{name} has no effect with an operator")
        # The name of an operator's task is not written; that of another holds its place.
        fields: Dict[str, Any] = {"task": "denoise" if self.operator else task}
        if kernel is not None:
            named = isinstance(kernel, str) or is_path(kernel)
            fields["kernel"] = str(kernel) if named else np.asarray(kernel, np.float64).tolist()
        fields.update(sigma=sigma, gain=gain, boundary=boundary)
        fields.update(linear_light=linear_light or None, keep_margin=keep_margin or None)
        self._mask, self._ignore = mask, ignore
        for name, flags in (("mask", mask), ("ignore", ignore)):
            if flags is not None and is_path(flags):
                fields[name] = str(flags)
        self._fields = {name: value for name, value in fields.items() if value is not None}

    def json(self) -> Dict[str, Any]:
        """What can be written of it."""
        return dict(self._fields)

    def beside(self) -> Dict[str, Any]:
        """What the engine takes beside that."""
        beside: Dict[str, Any] = {}
        for name, flags in (("mask", self._mask), ("ignore", self._ignore)):
            if flags is not None and not is_path(flags):
                beside[name] = to_flags(flags)
        if self.operator is not None:
            beside.update(operator=self.operator.described(), hint=self.operator.hint)
        return beside

    def observation(self, y: Image) -> np.ndarray:
        """An observation in memory as the engine takes it: with an operator, `(1, c, h, w)` where white images are 1 and black
        ones -1 before A."""
        if self.operator is None:
            return to_array(y)
        y = np.asarray(y)
        white = np.iinfo(y.dtype).max if y.dtype.kind == "u" else 1.0
        y = self.operator.to_native(y.astype(np.float64) / white)
        # With x' = 2 x - 1, A x' = 2 A x - A 1.
        white_image = self.operator.to_native(self.operator.apply(np.ones(self.operator.domain)))
        return (2.0 * y - white_image).astype(np.float32)
