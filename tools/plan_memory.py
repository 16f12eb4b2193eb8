#!/usr/bin/env python3
"""Peak memory and time of restorations beside what `restore --plan` announces: one line a setting.

  python3 tools/plan_memory.py --adir target/release/adir [--gallery FOLDER] [--only WORD]

The observations are noisy gradients, made here. A ratio of 1.00 to 1.25 is what a plan should announce.
"""
import argparse, os, re, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np
from PIL import Image

# Name, sides of the observation, options.
LIST = [
    ("sr4 to 128x128", (32, 32), "--task sr4"),
    ("sr4 to 512x512", (128, 128), "--task sr4"),
    ("sr4 to 1024x1024", (256, 256), "--task sr4"),
    ("sr4 to 2048x2048", (512, 512), "--task sr4"),
    ("sr2 to 256x256", (128, 128), "--task sr2"),
    ("sr2 to 512x512, 4 samples", (256, 256), "--task sr2 --samples 4"),
    ("sr2 to 256x256, f64", (128, 128), "--task sr2 --dtype f64"),
    ("sr4 to 512x512, tiles of 256", (128, 128), "--task sr4 --tile 256"),
    ("sr2 after gaussian:5:1 to 512x512", (256, 256), "--task sr2 --kernel gaussian:5:1"),
    ("sr2 after gaussian:5:1 to 2048x2048", (1024, 1024), "--task sr2 --kernel gaussian:5:1"),
    ("deblur 256x256", (256, 256), "--task deblur --kernel box:5 --sigma 2"),
    ("deblur 512x512", (512, 512), "--task deblur --kernel box:5 --sigma 2"),
    ("deblur 512x512, circular", (512, 512), "--task deblur --kernel gaussian:9:1.6 --sigma 2 --boundary circular"),
    ("deblur 1024x1024", (1024, 1024), "--task deblur --kernel box:5 --sigma 2"),
    ("deblur 200x140, 4 samples", (200, 140), "--task deblur --kernel motion:9:30 --sigma 5 --samples 4"),
    ("inpaint 512x512", (512, 512), "--task inpaint --mask {mask}"),
    ("inpaint 1024x1024", (1024, 1024), "--task inpaint --mask {mask}"),
    ("denoise 128x128", (128, 128), "--task denoise --sigma 25"),
    ("denoise 768x512", (768, 512), "--task denoise --sigma 25"),
    ("denoise 1024x1024", (1024, 1024), "--task denoise --sigma 25"),
    ("denoise 1024x768, at most 1 GB", (1024, 768), "--task denoise --sigma 25 --max-memory 1"),
    ("sr4 to 256x256, pigdm (gradients)", (64, 64), "--task sr4 --method pigdm"),
    ("sr4 to 512x512, dps, tiles of 256", (128, 128), "--task sr4 --method dps --tile 256"),
    ("deblur 256x256, adapted", (256, 256), "--task deblur --kernel box:5 --sigma 5 {adapt}"),
    ("denoise 512x512, adapted", (512, 512), "--task denoise --sigma 25 {adapt}"),
]
ap = argparse.ArgumentParser()
ap.add_argument("--adir", required=True); ap.add_argument("--gallery"); ap.add_argument("--only", default="")
a = ap.parse_args()
tmp = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
adapt = f"--gallery {a.gallery} --adapt gallery --iterations 2 --no-cache"
print("| setting | peak, GB | announced, GB | ratio | planned in, s | seconds |\n|---|---|---|---|---|---|")
for name, (width, height), options in LIST:
    if a.only not in name or ("{adapt}" in options and not a.gallery): continue
    y = np.add.outer(np.linspace(40, 120, height), np.linspace(0, 80, width))[..., None] + rng.normal(0, 5, (height, width, 3))
    Image.fromarray(y.clip(0, 255).astype(np.uint8)).save(tmp / "y.png")
    mask = np.zeros((height, width), np.uint8); mask[height // 3 : height // 2, width // 3 : width // 2] = 255
    Image.fromarray(mask).save(tmp / "mask.png")
    steps = [] if "{adapt}" in options else ["--steps", "3" if "dps" in options or "pigdm" in options else "4"]
    args = [a.adir, "-q", "restore", str(tmp / "y.png"), "-o", str(tmp / "x.png"), "--overwrite", *steps, *options.format(mask=tmp / "mask.png", adapt=adapt).split()]
    start = time.time()
    plan = subprocess.run([*args, "--plan"], check=True, capture_output=True, text=True).stdout
    planned = time.time() - start
    announced = max(float(v) for v in re.findall(r"memory .*?([\d.]+) GB", plan))
    start = time.time(); pid = os.spawnv(os.P_NOWAIT, a.adir, args)
    _, status, usage = os.wait4(pid, 0)
    if status: sys.exit(f"failed: {name}")
    peak = usage.ru_maxrss * 1024 / 1e9
    print(f"| {name} | {peak:.3f} | {announced:.2f} | {announced / peak:.2f} | {planned:.2f} | {time.time() - start:.0f} |", flush=True)
