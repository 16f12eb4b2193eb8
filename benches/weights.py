"""Weights of a safetensors file as PyTorch tensors in f32: 8-bit integers NAME are multiplied by their NAME_scale."""


def weights(file):
    names = set(file.keys())
    scaled = {name for name in names if name + "_scale" in names}
    out = {name: file.get_tensor(name).float() for name in names if name.removesuffix("_scale") not in scaled or not name.endswith("_scale")}
    for name in scaled:
        out[name] = out[name] * file.get_tensor(name + "_scale").float()
    return out
