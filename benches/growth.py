#!/usr/bin/env python3
"""How the time of sampling with the embedded prior grows with the image's side, the threads and the samples.

  python3 benches/growth.py [--adir target/release/adir] [--rounds 3]

Runs `adir restore --task sr4` with 4 and with 24 steps: a step's time is a twentieth of the difference (medians), so that loading
and writing do not count. Peak memory is that of the run with 24 steps.
"""
import argparse, statistics, tempfile
from pathlib import Path
from PIL import Image

from child import run

ROOT = Path(__file__).resolve().parent.parent
ap = argparse.ArgumentParser()
ap.add_argument("--adir", default=str(ROOT / "target/release/adir")); ap.add_argument("--rounds", type=int, default=3)
a = ap.parse_args()
tmp = Path(tempfile.mkdtemp())
photo = Image.open(ROOT / "examples/cat.png").convert("RGB")


def sample(side, threads, samples, steps):
    y = tmp / f"{side}.png"
    if not y.exists(): photo.resize((side // 4, side // 4), Image.BICUBIC).save(y)
    command = [a.adir, "restore", y, "-o", tmp / "x.png", "--task", "sr4", "--steps", steps, "--samples", samples, "--overwrite", "-q"]
    return run(command, threads)


print("| side | threads | samples | ms a step | ms a step, sample and 10,000 pixels | peak, GB |\n|---|---|---|---|---|---|")
cases = [(side, threads, 1) for side in (64, 128, 256, 512) for threads in (1, 2)] + [(128, 2, n) for n in (2, 4, 8)]
for side, threads, samples in cases:
    few, many = ([sample(side, threads, samples, steps) for _ in range(a.rounds)] for steps in (4, 24))
    step = (statistics.median(t for t, _ in many) - statistics.median(t for t, _ in few)) / 20 * 1e3
    peak = statistics.median(memory for _, memory in many)
    print(f"| {side} | {threads} | {samples} | {step:.1f} | {step / samples / side**2 * 1e4:.2f} | {peak:.2f} |", flush=True)
