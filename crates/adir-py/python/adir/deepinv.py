"""A denoiser for the samplers and plug-and-play methods of deepinv (https://deepinv.github.io)."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import torch

from ._prior import Prior

try:
    from deepinv.models.base import Denoiser as _Base
except ImportError:  # Denoisers of deepinv are modules of this form.
    _Base = torch.nn.Module


class Denoiser(_Base):
    """The mean of x given x plus white noise, by a prior of adir, as deepinv calls it: ``denoiser(x, sigma)``.

    Images are tensors ``(n, 3, h, w)`` from 0 to 1; ``sigma`` is a number or a tensor with one number for each image. Sides that the
    network does not accept are extended by reflection and cropped again. Computes on the CPU, without gradients.
    """

    def __init__(self, prior: Optional[Prior] = None, multiple: int = 8):
        super().__init__()
        self.prior, self.multiple = prior or Prior.embedded(), multiple

    def forward(self, x: torch.Tensor, sigma: Any, **_: Any) -> torch.Tensor:
        n, _c, h, w = x.shape
        pad = [(0, -side % self.multiple) for side in (h, w)]
        images = np.pad(x.detach().cpu().float().numpy(), [(0, 0), (0, 0), *pad], mode="reflect")
        levels = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1).tolist()
        levels = levels * n if len(levels) == 1 else levels
        if len(levels) != n:
            raise ValueError(f"{len(levels)} noise levels for {n} images")
        made = [self.prior.denoise(image[None], level)[:, :, :h, :w] for image, level in zip(images, levels)]
        return torch.from_numpy(np.concatenate(made)).to(x.device, x.dtype)
