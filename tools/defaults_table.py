#!/usr/bin/env python3
"""Sampling settings measured on ten photographs (128x128 pixels of the middle), and the reference methods beside them.

  python3 tools/defaults_table.py --adir target/release/adir --images FOLDER --rows headline|explore|all
      [--model WEIGHTS] [--samples 4] [--count 10] [--side 128] [--part NAME] [--sheet PICTURE] [--show 0,1,3,7]

One line a setting: PSNR (RGB, dB) of one sample (mean over samples) and of the mean of the samples, SSIM of one sample,
agreement of the mean with the observation, seconds a sample on one thread. Two restorations run at once, one thread each.
"""
import argparse, json, os, subprocess, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity
from skimage.restoration import denoise_nl_means

ap = argparse.ArgumentParser()
ap.add_argument("--adir", required=True); ap.add_argument("--images", required=True)
ap.add_argument("--rows", default="headline"); ap.add_argument("--part", default="")
ap.add_argument("--model"); ap.add_argument("--samples", type=int, default=4); ap.add_argument("--count", type=int, default=10)
ap.add_argument("--side", type=int, default=128); ap.add_argument("--sheet"); ap.add_argument("--show", default="0,1,3,7", help="images of the sheet")
a = ap.parse_args()
SIDE, tmp = a.side, Path(tempfile.mkdtemp())
mask = np.zeros((SIDE, SIDE), np.uint8); q = SIDE * 3 // 8; mask[q:SIDE - q, q:SIDE - q] = 255  # a hole of a quarter of the side
Image.fromarray(mask).save(tmp / "mask.png")
truth = []
for path in sorted(Path(a.images).glob("*.png"))[: a.count]:
    im = Image.open(path).convert("RGB"); l, t = (im.width - SIDE) // 2, (im.height - SIDE) // 2
    im.crop((l, t, l + SIDE, t + SIDE)).save(tmp / path.name); truth.append(tmp / path.name)

# The blurs wrap around, so that y has the size of x and the Wiener filter is exact.
CIRCULAR = ["--boundary", "circular"]
TASKS = {
    "sr2": ["--task", "sr2"], "sr4": ["--task", "sr4"], "sr8": ["--task", "sr8"],
    "deblur box:5 sigma 10": ["--task", "deblur", "--kernel", "box:5", *CIRCULAR, "--sigma", "10"],
    "deblur box:5 sigma 0": ["--task", "deblur", "--kernel", "box:5", *CIRCULAR],
    "deblur box:5 sigma 2.55": ["--task", "deblur", "--kernel", "box:5", *CIRCULAR, "--sigma", "2.55"],
    "deblur box:5 sigma 5": ["--task", "deblur", "--kernel", "box:5", *CIRCULAR, "--sigma", "5"],
    "deblur gaussian sigma 10": ["--task", "deblur", "--kernel", "gaussian:15:1.6", *CIRCULAR, "--sigma", "10"],
    "deblur motion sigma 10": ["--task", "deblur", "--kernel", "motion:15:30", *CIRCULAR, "--sigma", "10"],
    "deblur box:5 sigma 25": ["--task", "deblur", "--kernel", "box:5", *CIRCULAR, "--sigma", "25"],
    "denoise sigma 25": ["--task", "denoise", "--sigma", "25"], "denoise sigma 10": ["--task", "denoise", "--sigma", "10"],
    "inpaint": ["--task", "inpaint", "--mask", str(tmp / "mask.png")], "colourise": ["--task", "colourise"],
}
EXPLORE = [
    ("sr4", ["", "--steps 10", "--steps 20", "--steps 100", "--steps 250", "--eta 0", "--eta 0.5", "--method ancestral --scale 10",
             "--method ancestral --scale 10 --residual paper", "--method ancestral --scale 10 --cap false", "--method ancestral --scale 10 --steps 250",
             "--method ancestral --scale 10 --adjoint strict", "--eps-after-guidance rederive", "--scale 10", "--clip false"]),
    ("deblur box:5 sigma 10", ["", "--eta 0", "--scale 2.5", "--scale 40", "--steps 20", "--method ancestral --scale 10",
                               "--eps-after-guidance rederive", "--eps-after-guidance rederive --scale 40"]),
    ("deblur box:5 sigma 0", ["--data-step gradient --scale projection --eps-after-guidance keep", "--data-step proximal --scale projection",
                              "--data-step proximal --scale 24000 --eps-after-guidance keep", "--data-step proximal --scale 24000", "--data-step proximal --scale 2400"]),
    ("deblur box:5 sigma 2.55", ["--data-step gradient --eps-after-guidance keep", "--data-step proximal --scale 39 --eps-after-guidance keep",
                                 "--data-step proximal --eps-after-guidance keep", "--data-step proximal --eps-after-guidance rederive",
                                 "--data-step proximal --scale 39 --eps-after-guidance rederive", "--data-step proximal --scale 625"]),
    ("deblur box:5 sigma 5", ["--data-step gradient --eps-after-guidance keep", "--data-step proximal --eps-after-guidance keep",
                              "--data-step proximal --eps-after-guidance rederive"]),
    ("deblur box:5 sigma 10", ["--data-step gradient", "--data-step proximal --scale 1", "--data-step proximal --scale 2.5",
                               "--data-step proximal --eps-after-guidance rederive", "--data-step proximal --eps-after-guidance keep"]),
    ("sr4", ["--data-step proximal"]), ("sr2", ["--data-step proximal"]), ("sr8", ["--data-step proximal"]),
    ("denoise sigma 25", ["", "--scale 0.8", "--steps 20", "--eps-after-guidance rederive", "--method ancestral --scale 10",
                          "--eps-after-guidance rederive --scale 6.5", "--eps-after-guidance rederive --scale 0.8"]),
    ("denoise sigma 25", ["--scale 0.4", "--scale 0.2", "--scale 0.1", "--scale 0.4 --steps 20", "--scale 0.2 --steps 20"]),
    ("inpaint", ["", "--eta 0", "--eps-after-guidance rederive"]), ("colourise", ["", "--eta 0", "--eps-after-guidance rederive"]),
]
rows = [(t, [""]) for t in TASKS] if a.rows == "headline" else EXPLORE if a.rows == "explore" else [(t, [""]) for t in TASKS] + EXPLORE
rows = [(t, o) for t, o in rows if a.part in t]
env = dict(os.environ, RAYON_NUM_THREADS="1")


def load(path): return np.asarray(Image.open(path).convert("RGB")).astype(float)
def psnr(x, y): return 10 * np.log10(255**2 / max(1e-9, np.mean((np.clip(x, 0, 255) - y) ** 2)))
def ssim(x, y): return structural_similarity(x, y, channel_axis=-1, data_range=255)
def run(args): subprocess.run([a.adir, *args, "-q"], check=True, env=env)


def observed(task, path, i):
    y = tmp / f"{path.stem}.{task.replace(' ', '-').replace(':', '')}.tif"
    if not y.exists(): run(["degrade", str(path), "-o", str(y), *TASKS[task], "--seed", str(100 + i)])
    return y


def restore(task, options, path, i):
    y, out = observed(task, path, i), tmp / f"{path.stem}.out{abs(hash((task, options)))}.png"
    model = ["--model", a.model] if a.model else []
    start = time.time()
    run(["restore", str(y), "-o", str(out), *TASKS[task], *options.split(), *model, "--samples", str(a.samples), "--seed", str(i), "--overwrite"])
    seconds = (time.time() - start) / a.samples
    x, mean = load(path), load(out)
    one = [load(out.with_suffix(f".{k}.png")) for k in range(1, a.samples + 1)] if a.samples > 1 else [mean]
    agreement = json.loads(out.with_suffix(".json").read_text())["agreement_psnr"]
    return [np.mean([psnr(s, x) for s in one]), psnr(mean, x), np.mean([ssim(s, x) for s in one]), float(agreement), seconds], one[0], mean


def float_tif(path):
    import tifffile
    y = tifffile.imread(path).astype(float) * 255
    return np.stack([y] * 3, -1) if y.ndim == 2 else y


def wiener(y, kernel, noise):
    """With a spectrum of images that falls with the square of the frequency; the mean is left alone."""
    fy, fx = np.meshgrid(np.fft.fftfreq(y.shape[0]), np.fft.fftfreq(y.shape[1]), indexing="ij")
    noise = noise * (fx**2 + fy**2)[..., None] * 100
    h = np.zeros(y.shape[:2]); k = kernel.shape[0]; h[:k, :k] = kernel
    h = np.fft.fft2(np.roll(h, (-(k // 2), -(k // 2)), (0, 1)))[..., None]
    return np.real(np.fft.ifft2(np.conj(h) * np.fft.fft2(y, axes=(0, 1)) / (np.abs(h) ** 2 + noise + 1e-12), axes=(0, 1)))


def reference(task):
    """Name and PSNR of what one would use otherwise."""
    ys = [float_tif(observed(task, p, i)) for i, p in enumerate(truth)]; xs = [load(p) for p in truth]
    if task.startswith("sr"):
        f = int(task[2:])
        up = lambda y: np.stack([np.asarray(Image.fromarray(y[..., c].astype(np.float32), "F").resize((SIDE, SIDE), Image.BICUBIC)) for c in range(3)], -1)
        return "bicubic", np.mean([psnr(up(y), x) for y, x in zip(ys, xs)]), np.mean([ssim(np.clip(up(y), 0, 255), x) for y, x in zip(ys, xs)])
    if task.startswith("deblur box"):
        best = max((np.mean([psnr(wiener(y, np.full((5, 5), 1 / 25), n), x) for y, x in zip(ys, xs)]), n) for n in 10 ** np.arange(-5, 1, 0.1))
        return "Wiener, tuned", best[0], np.mean([ssim(np.clip(wiener(y, np.full((5, 5), 1 / 25), best[1]), 0, 255), x) for y, x in zip(ys, xs)])
    if task.startswith("denoise"):
        s = float(task.split()[-1]) / 255
        found = {}
        for h in (0.6, 0.8, 1.0):
            found[h] = [denoise_nl_means(y / 255, h=h * s, sigma=s, patch_size=5, patch_distance=6, channel_axis=-1) * 255 for y in ys]
        h = max(found, key=lambda h: np.mean([psnr(d, x) for d, x in zip(found[h], xs)]))
        return f"non-local means, h = {h} sigma", np.mean([psnr(d, x) for d, x in zip(found[h], xs)]), np.mean([ssim(np.clip(d, 0, 255), x) for d, x in zip(found[h], xs)])
    return None


print(f"{len(truth)} images, {a.samples} samples, {SIDE}x{SIDE}\n")
print("| task | settings | PSNR, one sample | PSNR, mean of samples | SSIM, one sample | agreement, dB | seconds |\n|---|---|---|---|---|---|---|", flush=True)
sheets, show = [], [i for i in map(int, a.show.split(",")) if i < len(truth)]
with ThreadPoolExecutor(2) as pool:
    for task, options in rows:
        other = reference(task)
        if other: print(f"| {task} | *{other[0]}* | {other[1]:.2f} | | {other[2]:.3f} | | |", flush=True)
        for option in options:
            found = list(pool.map(lambda ip: restore(task, option, ip[1], ip[0]), enumerate(truth)))
            m = np.mean([f[0] for f in found], 0)
            print(f"| {task} | {option or 'default'} | {m[0]:.2f} | {m[1]:.2f} | {m[2]:.3f} | {m[3]:.1f} | {m[4]:.1f} |", flush=True)
            if a.sheet and not option:
                for i in show:
                    y = np.clip(float_tif(observed(task, truth[i], i)), 0, 255).astype(np.uint8)
                    y = np.asarray(Image.fromarray(y).resize((SIDE, SIDE), Image.NEAREST)).copy()
                    if task == "inpaint": y[mask > 0] = 128
                    sheets.append(np.concatenate([y, found[i][1], found[i][2], load(truth[i])], 1).clip(0, 255).astype(np.uint8))
if a.sheet:
    per = len(show)
    Image.fromarray(np.concatenate([np.concatenate(sheets[i:i + per], 1) for i in range(0, len(sheets), per)], 0)).save(a.sheet, quality=90)
