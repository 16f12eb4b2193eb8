#!/usr/bin/env python3
"""The cases of crates/adir/benches/unet.rs in PyTorch (eager, f32): lines `name median least`, in milliseconds.

  python3 benches/torch_unet.py --network train_prior.py [--threads N] [part of a case's name ...]

`--network` is the training script that defines `UNet` (shared/tools/train_prior.py).
"""
import argparse, importlib.util, time
import torch

ap = argparse.ArgumentParser()
ap.add_argument("--network", required=True); ap.add_argument("--threads", type=int, default=2); ap.add_argument("parts", nargs="*")
a = ap.parse_args()
spec = importlib.util.spec_from_file_location("network", a.network)
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
torch.set_num_threads(a.threads)
NETWORKS = {
    "prior": dict(module.CONFIG),
    "unet25m": dict(module.CONFIG, model_channels=64, num_res_blocks=2, channel_mult=[1, 2, 4], attention_resolutions=[2, 4], num_head_channels=64),
}


def report(name, run):
    if a.parts and not any(part in name for part in a.parts): return
    run(); times, begin = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begin < 2:
        start = time.perf_counter(); run(); times.append((time.perf_counter() - start) * 1e3)
    print(f"{name} {sorted(times)[len(times) // 2]:.4f} {min(times):.4f}", flush=True)


for name, config in NETWORKS.items():
    net = module.UNet(config)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    for side in (64, 128, 256):
        x = torch.randn(1, 3, side, side)
        with torch.no_grad():
            report(f"{name}-forward-1x{side}", lambda: net(x, torch.tensor([500])))
    for n, side in ((2, 64), (6, 64), (32, 64), (6, 128)):
        x, t = torch.randn(n, 3, side, side), torch.full((n,), 500)

        def step():
            optimizer.zero_grad(set_to_none=True)
            ((net(x, t)[:, :3] - x) ** 2).mean().backward()
            optimizer.step()

        report(f"{name}-step-{n}x{side}", step)
