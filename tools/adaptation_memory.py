#!/usr/bin/env python3
"""Peak memory of an adaptation beside what `restore --plan` announces: one line a setting.

  python3 tools/adaptation_memory.py --adir target/release/adir --gallery FOLDER [--model WEIGHTS] [--iterations 2] [-- OPTIONS ...]

Without OPTIONS a fixed list of settings of the embedded prior. The observation is 64x64 pixels of noise.
"""
import argparse, os, re, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np
from PIL import Image

own = sys.argv[1:]
given = own[own.index("--") + 1:] if "--" in own else None
ap = argparse.ArgumentParser()
ap.add_argument("--adir", required=True); ap.add_argument("--gallery", required=True); ap.add_argument("--model"); ap.add_argument("--iterations", default="2")
a = ap.parse_args(own[: own.index("--")] if "--" in own else own)
tmp = Path(tempfile.mkdtemp())
Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp / "y.png")
LIST = [f"--adapt-crop {c} --adapt-micro-batch {m} {x}" for c in (64, 128, 256) for m in (1, 6) for x in ("--full", "--lora 16", "--full --recompute", "--lora 16 --recompute")]
print("| settings | peak, GB | announced, GB | ratio | seconds |\n|---|---|---|---|---|")
for options in [" ".join(given)] if given else LIST:
    args = [a.adir, "-q", "restore", str(tmp / "y.png"), "-o", str(tmp / "x.png"), "--task", "denoise", "--sigma", "10", "--steps", "2", "--overwrite",
            "--gallery", a.gallery, "--adapt", "gallery", "--iterations", a.iterations, "--cache", str(tmp / "cache"), "--no-cache", *(["--model", a.model] if a.model else []), *options.split()]
    plan = subprocess.run([*args, "--plan"], check=True, capture_output=True, text=True).stdout
    announced = float(re.search(r"adaptation memory.*?([\d.]+) GB", plan).group(1))
    start = time.time(); pid = os.spawnv(os.P_NOWAIT, a.adir, args)
    _, status, usage = os.wait4(pid, 0)
    if status: sys.exit(f"failed: {options}")
    peak = usage.ru_maxrss * 1024 / 1e9
    print(f"| {options} | {peak:.2f} | {announced:.2f} | {announced / peak:.2f} | {time.time() - start:.0f} |", flush=True)
