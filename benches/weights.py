"""Weights of a safetensors file as PyTorch tensors in f32: 8-bit integers NAME are multiplied by their NAME_scale."""


def weights(file):
    tensors = {name: file.get_tensor(name).float() for name in file.keys()}
    for name in [name for name in tensors if name + "_scale" in tensors]:
        tensors[name] *= tensors.pop(name + "_scale")
    return tensors
