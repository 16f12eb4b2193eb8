#!/usr/bin/env python3
"""A whole restoration, 64x64 to 256x256 with 50 steps of adaptation and 20 of sampling, by `adir` and in PyTorch, in turns.

  python3 benches/compare_restore.py --network train_prior.py [--adir target/release/adir] [--rounds 3] [--threads 2]

Prints a table: seconds and peak memory of each program (medians), their ratios, PSNR against the truth. The gallery's index is
made before, and no adapted weights are kept. `--network` is the training script that defines PyTorch's network.
"""
import argparse, statistics, sys, tempfile
from pathlib import Path
import numpy as np
from PIL import Image

from child import run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ap = argparse.ArgumentParser()
ap.add_argument("--network", required=True); ap.add_argument("--adir", default=str(ROOT / "target/release/adir"))
ap.add_argument("--rounds", type=int, default=3); ap.add_argument("--threads", type=int, default=2)
a = ap.parse_args()
tmp = Path(tempfile.mkdtemp())
truth, gallery = ROOT / "examples/cat.png", ROOT / "examples/gallery"


def psnr(path):
    x, result = (np.asarray(Image.open(p).convert("RGB")).astype(float) for p in (truth, path))
    return 10 * np.log10(255**2 / np.mean((x - result) ** 2))


y = tmp / "y.png"
run([a.adir, "degrade", truth, "-o", y, "--task", "sr4", "-q"], a.threads)
ours = [a.adir, "restore", y, "-o", tmp / "ours.png", "--task", "sr4", "--gallery", gallery, "--adapt", "gallery", "--full", "--iterations", "50",
        "--steps", "20", "--cache", tmp / "cache", "--no-cache", "--overwrite", "-q"]
torch = [sys.executable, HERE / "torch_restore.py", y, "-o", tmp / "torch.png", "--gallery", gallery, "--network", a.network,
         "--prior", ROOT / "crates/adir-assets/assets/prior.safetensors", "--threads", a.threads]
run(ours, a.threads)  # makes the index
found = {"adir": [], "PyTorch": []}
for _ in range(a.rounds):
    found["adir"].append(run(ours, a.threads)); found["PyTorch"].append(run(torch, a.threads))
median = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in found.items()}
print(f"{a.rounds} rounds, {a.threads} threads\n\n| | seconds | peak, GB | PSNR, dB |\n|---|---|---|---|")
for name, path in (("adir", "ours.png"), ("PyTorch", "torch.png")):
    print(f"| {name} | {median[name][0]:.1f} | {median[name][1]:.2f} | {psnr(tmp / path):.2f} |")
print(f"| ratio | {median['adir'][0] / median['PyTorch'][0]:.2f} | {median['adir'][1] / median['PyTorch'][1]:.2f} | |")
