#!/usr/bin/env python3
"""Does adaptation help? Unadapted, K nearest of a gallery, and K random images of another folder, the same seeds.

  python3 tools/adaptation_table.py --adir target/release/adir --images EVAL --gallery GALLERY --random FOLDER
      [--count 20] [--samples 4] [--task "--task sr4"] [--options "--steps 20"] [--adapt "--iterations 100"] [--arms knn,random,lora,self]

The 128x128 pixels in the middle of each image; PSNR of the mean of the samples, and the angle between EfficientNet-Lite0
features of one sample and of the truth (not a perceptual metric of the literature). Two restorations at once, one thread each.
"""
import argparse, json, os, random, shutil, subprocess, tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from PIL import Image

ap = argparse.ArgumentParser()
for name in ("adir", "images", "gallery", "random"): ap.add_argument("--" + name, required=True)
ap.add_argument("--count", type=int, default=20); ap.add_argument("--samples", type=int, default=4)
ap.add_argument("--task", default="--task sr4"); ap.add_argument("--options", default="--steps 20")
ap.add_argument("--adapt", default=""); ap.add_argument("--arms", default="knn,random"); ap.add_argument("--model")
ap.add_argument("--sheet")
a = ap.parse_args()
tmp, env = Path(tempfile.mkdtemp()), dict(os.environ, RAYON_NUM_THREADS="1")
names = sorted(Path(a.images).glob("*.png")); names = names[:: max(1, len(names) // a.count)][: a.count]
pool_of_random = sorted(p for p in Path(a.random).iterdir() if p.suffix in (".png", ".jpg", ".webp"))
load = lambda p: np.asarray(Image.open(p).convert("RGB")).astype(float)
psnr = lambda x, y: 10 * np.log10(255**2 / max(1e-9, np.mean((x - y) ** 2)))
run = lambda *args: subprocess.run([a.adir, "-q", *map(str, args)], check=True, env=env, capture_output=True, text=True).stdout
cache = ["--cache", tmp / "cache"]
model = ["--model", a.model] if a.model else []


def arm(kind, i):
    k = random.Random(i)
    if kind == "none": return []
    if kind == "self": return ["--adapt", "self", *a.adapt.split()]
    if kind == "random":
        folder = tmp / f"random{i}"; folder.mkdir(exist_ok=True)
        for p in k.sample(pool_of_random, 20): shutil.copy(p, folder)
        return ["--gallery", folder, "--adapt", "gallery", *a.adapt.split()]
    return ["--gallery", a.gallery, "--adapt", "gallery", *a.adapt.split(), *(["--lora", "16"] if kind == "lora" else [])]


def one(job):
    i, kind = job
    folder = tmp / f"image{i}"; folder.mkdir(exist_ok=True)
    x, y, out = folder / "truth.png", folder / "y.tif", folder / f"{kind}.png"
    run("restore", y, "-o", out, *a.task.split(), *a.options.split(), *model, "--samples", a.samples, "--seed", i, *arm(kind, i), *cache)
    record = json.loads(out.with_suffix(".json").read_text())
    return psnr(load(out), load(x)), record["adaptation"]


for i, path in enumerate(names):
    folder = tmp / f"image{i}"; folder.mkdir()
    im = Image.open(path).convert("RGB"); l, t = (im.width - 128) // 2, (im.height - 128) // 2
    im.crop((l, t, l + 128, t + 128)).save(folder / "truth.png")
    run("degrade", folder / "truth.png", "-o", folder / "y.tif", *a.task.split(), "--seed", 100 + i)
arms = ["none", *a.arms.split(",")]
if {"knn", "lora"} & set(arms):  # the index, before two runs want it at once
    run("restore", tmp / "image0/y.tif", "-o", tmp / "warm.png", *a.task.split(), *model, "--steps", "2", "--gallery", a.gallery, "--adapt", "gallery", "--iterations", "0", *cache)
with ThreadPoolExecutor(2) as pool:
    jobs = [(i, kind) for i in range(len(names)) for kind in arms]
    found = dict(zip(jobs, pool.map(one, jobs)))
angle = {}
for i in range(len(names)):
    folder = tmp / f"image{i}"
    for f in folder.glob("*.*.png"):
        if f.name.split(".")[1] != "1": f.unlink()
    run("index", "build", folder, "-o", tmp / "features.index"); out = run("index", "search", tmp / "features.index", folder / "truth.png", "-k", 100, "--json")
    (tmp / "features.index").unlink()
    for line in out.splitlines():
        entry = json.loads(line); angle[i, entry["path"]] = entry["distance"]
features = lambda i, kind: angle.get((i, f"{kind}.1.png"), angle.get((i, f"{kind}.png")))
print(f"{len(names)} images, {a.samples} samples; {a.task} {a.options}; adaptation: {a.adapt or 'default'}\n")
print("| image | " + " | ".join(f"{k}: PSNR, angle" for k in arms) + " |\n|---" * 1 + "|---" * len(arms) + "|")
for i, path in enumerate(names):
    print(f"| {path.stem[:24]} | " + " | ".join(f"{found[i, k][0]:.2f}, {features(i, k):.3f}" for k in arms) + " |")
print("| **mean** | " + " | ".join(f"{np.mean([found[i, k][0] for i in range(len(names))]):.2f}, {np.mean([features(i, k) for i in range(len(names))]):.3f}" for k in arms) + " |")
for k in arms[1:]:
    better = sum(found[i, k][0] > found[i, "none"][0] for i in range(len(names))); closer = sum(features(i, k) < features(i, "none") for i in range(len(names)))
    print(f"\n{k}: better than unadapted by PSNR in {better} of {len(names)}, by feature angle in {closer} of {len(names)}")
if a.sheet:
    rows = []
    for i in range(min(6, len(names))):
        folder = tmp / f"image{i}"
        y = (np.clip(__import__("tifffile").imread(folder / "y.tif"), 0, 1) * 255).astype(np.uint8)
        y = np.asarray(Image.fromarray(y).resize((128, 128), Image.NEAREST))
        one_of = lambda k: folder / (f"{k}.1.png" if a.samples > 1 else f"{k}.png")
        rows.append(np.concatenate([y, *[load(one_of(k)) for k in arms], load(folder / "truth.png")], 1).astype(np.uint8))
    Image.fromarray(np.concatenate(rows, 0)).save(a.sheet)
