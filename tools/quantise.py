#!/usr/bin/env python3
"""Round the weights of a safetensors file to 8 bits, with a scale for each output channel.

  python3 tools/quantise.py prior.f16.safetensors prior.safetensors [KEY=VALUE ...]

Tensors of two or more dimensions and 4096 or more values become signed 8-bit integers NAME and f16 factors NAME_scale;
the others stay as they are. Each scale is the one of a few that rounds its channel with the least squared error. KEY=VALUE
puts text into the metadata, KEY=@FILE that of another safetensors file.
"""
import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


def rounded(weights):
    """Integers and scales of the least squared error."""
    rows = weights.reshape(len(weights), -1).astype(np.float32)
    peak = np.maximum(np.abs(rows).max(1, keepdims=True), 1e-12)
    best = None
    for share in np.linspace(1.0, 0.7, 13):
        scale = (peak * share / 127).astype(np.float16).astype(np.float32)
        scale = np.maximum(scale, np.float32(6e-8))
        whole = np.clip(np.rint(rows / scale), -127, 127)
        error = ((whole * scale - rows) ** 2).sum(1, keepdims=True)
        if best is None:
            best = [error, whole, scale]
        else:
            better = error < best[0]
            best = [np.where(better, new, old) for new, old in zip((error, whole, scale), best)]
    _, whole, scale = best
    return whole.astype(np.int8).reshape(weights.shape), scale.astype(np.float16).reshape(-1, *[1] * (weights.ndim - 1))


def main(source, target, *settings):
    with safe_open(source, "np") as file:
        metadata = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    for setting in settings:
        key, _, value = setting.partition("=")
        if value.startswith("@"):
            with safe_open(value[1:], "np") as file:
                value = file.metadata()[key]
        metadata[key] = value
    out, before, after = {}, 0.0, 0.0
    for name, weights in tensors.items():
        if weights.ndim >= 2 and weights.size >= 4096:
            out[name], out[name + "_scale"] = rounded(weights)
            error = out[name].astype(np.float32) * out[name + "_scale"] - weights
            before, after = before + float((weights.astype(np.float32) ** 2).sum()), after + float((error**2).sum())
        else:
            out[name] = weights.astype(np.float16)
    save_file(out, target, metadata)
    print(f"relative error of the rounded weights: {np.sqrt(after / before):.4f}")


main(*sys.argv[1:])
