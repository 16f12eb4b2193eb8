"""The cases of crates/adir-kernels/benches/ops.rs in PyTorch: lines `name median least`, in milliseconds.

    python torch_reference.py [--threads N] [--mode eager|channels-last|bf16|compile] [part of a case's name ...]
"""

import argparse
import time

import torch
import torch.nn.functional as F


def timed(run, budget=0.6):
    run()
    begin, times = time.perf_counter(), []
    while len(times) < 5 or time.perf_counter() - begin < budget:
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return f"{sorted(times)[len(times) // 2]:.4f} {min(times):.4f}"


def attention(qkv, heads):
    """guided-diffusion's QKVAttentionLegacy, but with PyTorch's fused attention."""
    n, width, tokens = qkv.shape
    q, k, v = qkv.view(n, heads, 3, width // 3 // heads, tokens).transpose(3, 4).unbind(2)
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(n, width // 3, tokens)


def attention_plain(qkv, heads):
    """guided-diffusion's QKVAttentionLegacy as written."""
    n, width, tokens = qkv.shape
    depth = width // 3 // heads
    q, k, v = qkv.reshape(n * heads, 3 * depth, tokens).split(depth, dim=1)
    scale = depth**-0.25
    weight = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), dim=-1)
    return torch.einsum("bts,bcs->bct", weight, v).reshape(n, -1, tokens)


def cases():
    for shape, outputs, kernel, stride in [
        ((1, 128, 64, 64), 128, 3, 1),
        ((1, 256, 32, 32), 256, 3, 1),
        ((1, 512, 16, 16), 512, 3, 1),
        ((4, 64, 64, 64), 64, 3, 1),
        ((8, 64, 32, 32), 64, 3, 1),
        ((1, 96, 66, 66), 96, 3, 1),
        ((1, 192, 33, 33), 192, 3, 1),
        ((1, 3, 64, 64), 128, 3, 1),
        ((1, 128, 64, 64), 6, 3, 1),
        ((1, 128, 64, 64), 128, 3, 2),
        ((1, 256, 32, 32), 256, 1, 1),
        ((1, 512, 16, 16), 1536, 1, 1),
    ]:
        weight = torch.rand(outputs, shape[1], kernel, kernel)
        yield (
            f"conv{kernel}x{kernel}s{stride}-{list(shape)}-{outputs}",
            lambda x, w, s=stride, p=kernel // 2: F.conv2d(x, w, None, s, p),
            [torch.rand(shape), weight],
        )
    for shape in [(1, 128, 64, 64), (4, 64, 64, 64)]:
        yield (
            f"gnsilu-{list(shape)}",
            lambda x, g, b: F.silu(F.group_norm(x, 32, g, b, 1e-5)),
            [torch.rand(shape), torch.rand(shape[1]), torch.rand(shape[1])],
        )
    for shape, heads in [((1, 1536, 256), 8), ((1, 768, 1024), 4)]:
        name = f"attention-{list(shape)}-{heads}"
        yield name, lambda x, h=heads: attention(x, h), [torch.rand(shape)]
        yield name + "-plain", lambda x, h=heads: attention_plain(x, h), [torch.rand(shape)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mode", choices=["eager", "channels-last", "bf16", "compile"], default="eager")
    parser.add_argument("parts", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    def report(name, run):
        if not args.parts or any(part in name for part in args.parts):
            print(name, timed(run), flush=True)

    for name, f, tensors in cases():
        name = name.replace(" ", "")
        if args.mode == "channels-last":
            tensors = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors]
        if args.mode == "compile":
            f = torch.compile(f)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.mode == "bf16"):
            with torch.no_grad():
                report(f"{name}-forward", lambda: f(*tensors))
            tracked = [t.detach().requires_grad_() for t in tensors]
            report(f"{name}-gradients", lambda: torch.autograd.grad(f(*tracked).sum(), tracked))


if __name__ == "__main__":
    main()
