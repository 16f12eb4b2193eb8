"""Restoration of images whose degradation is known.

Given y = A x + e with a known operator A, `restore` draws x from a diffusion prior and keeps every step in agreement with
y. The prior is part of the module; nothing is downloaded.

    import adir
    x = adir.restore("y.png", task="sr4").image          # numpy, of the type of y

Images are numpy arrays `(h, w)` or `(h, w, c)` with c = 1 to 4 (grey, grey and alpha, RGB, RGB and alpha) of uint8 (white is
255), uint16 (65535) or floats (1.0), PIL images, or paths of image files.
"""

from ._adir import (
    AdirError,
    BackendError,
    ConfigError,
    InputError,
    LimitsError,
    ModelError,
    NumericalError,
    __version__,
)
from ._engine import (
    Engine,
    FolderDone,
    FolderPlan,
    Merged,
    Plan,
    Restored,
    Run,
    default_cache,
    merge,
    restore,
)
from ._prior import Prior
from ._problem import Operator, Problem

__all__ = [
    "AdirError",
    "BackendError",
    "ConfigError",
    "Engine",
    "FolderDone",
    "FolderPlan",
    "InputError",
    "LimitsError",
    "Merged",
    "ModelError",
    "NumericalError",
    "Operator",
    "Plan",
    "Prior",
    "Problem",
    "Restored",
    "Run",
    "__version__",
    "default_cache",
    "merge",
    "restore",
]
