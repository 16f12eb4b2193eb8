#!/usr/bin/env python3
"""Borders: photographs as a camera records them, deblurred with every boundary.

    python3 tools/borders.py PHOTOS [--adir target/release/adir] [--count 16] [--kernel box:5] [--folder DIR] [--out FILE.md]
    python3 tools/borders.py PHOTOS --light 1.4 --choices "--saturated keep" "--saturated ignore"
    python3 tools/borders.py PHOTOS --sigmas 0 --focus 2 --choices

A larger scene is blurred with a box, its middle of 128x128 pixels is cut out, noise is added, and the result is cut off
at black and white and rounded to 8 bits. PHOTOS are taken at even distances by name. PSNR is of RGB in 8 bits against the
same window of the sharp scene, cut off at white; differences to the default are paired, with their standard errors. What is in DIR is not
computed again. Needs numpy, scipy and Pillow.
"""
import argparse, math, subprocess, tempfile
from pathlib import Path
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter

SIDE = 128
BOUNDARIES = [f"--boundary {b}" for b in ["valid", "reflect", "reflect-101", "replicate", "constant:128", "constant:0", "circular"]]

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("photos", type=Path); ap.add_argument("--adir", default="target/release/adir"); ap.add_argument("--count", type=int, default=16)
ap.add_argument("--kernel", default="box:5", help="box:N"); ap.add_argument("--sigmas", type=float, nargs="+", default=[0, 2, 5, 10])
ap.add_argument("--light", type=float, default=1.0, help="the scene is so many times brighter than the photograph")
ap.add_argument("--focus", type=float, default=0.0, help="the scene is out of focus by a Gaussian of so many pixels, with grain of 1 grey level")
ap.add_argument("--choices", nargs="*", default=BOUNDARIES, help="options beside the default, by default every boundary")
ap.add_argument("--folder", type=Path); ap.add_argument("--out", type=Path)
a = ap.parse_args()
folder = a.folder or Path(tempfile.mkdtemp(prefix="adir-borders-"))
blur = int(a.kernel.removeprefix("box:"))


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.round(pixels), 0, 255).astype("uint8")).save(path)


def read(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(float)


def restored(sigma, name, options):
    out = folder / f"{sigma:g}" / name
    command = [a.adir, "restore", folder / f"{sigma:g}" / "y", "-o", out, "--task", "deblur", "--kernel", a.kernel, "-q", *options]
    subprocess.run([str(word) for word in command], check=True)
    return out


def scores(at):
    """PSNR in dB, one an image."""
    error = lambda path: ((read(path) - read(folder / "x" / path.name)) ** 2).mean()
    return np.array([10 * math.log10(255**2 / error(path)) for path in sorted(at.glob("*.png"))])


def difference(of, against):
    d = of - against
    return f"{d.mean():+.2f} ± {d.std(ddof=1) / math.sqrt(len(d)):.2f}"


photos = sorted(path for path in a.photos.iterdir() if path.suffix in {".png", ".webp", ".jpg", ".jpeg"})
photos = photos[:: max(1, len(photos) // a.count)][: a.count]
for number, path in enumerate(photos):
    scene = a.light * read(path)
    if a.focus:
        scene = gaussian_filter(scene, (a.focus, a.focus, 0)) + np.random.default_rng(number).normal(0, 1, scene.shape)
    top, left = (scene.shape[0] - SIDE) // 2, (scene.shape[1] - SIDE) // 2
    window = lambda of: of[top : top + SIDE, left : left + SIDE]
    write(folder / "x" / f"{path.stem}.png", window(scene))
    for sigma in a.sigmas:
        noise = np.random.default_rng(1000 * number + int(10 * sigma)).normal(0, sigma, (SIDE, SIDE, 3))
        write(folder / f"{sigma:g}" / "y" / f"{path.stem}.png", window(uniform_filter(scene, (blur, blur, 1))) + noise)

lines = ["| sigma | y | default | default, `--sigma` given | " + " | ".join(f"`{choice}`" for choice in a.choices) + " |", "|---" * (len(a.choices) + 4) + "|"]
for sigma in a.sigmas:
    y, default = scores(folder / f"{sigma:g}" / "y"), scores(restored(sigma, "default", []))
    given = scores(restored(sigma, "default-given", ["--sigma", f"{sigma:g}"]))
    others = [scores(restored(sigma, choice.replace("--", "").replace(":", "").replace(" ", "-"), choice.split())) for choice in a.choices]
    differences = " | ".join(difference(of, default) for of in [given, *others])
    lines.append(f"| {sigma:g} | {y.mean():.2f}, {difference(y, default)} | **{default.mean():.2f}** | {differences} |")
    below = [f"{name} by {-d:.2f}" for name, d in zip(sorted(photo.stem for photo in photos), default - y) if d < 0]
    print(lines[-1], f"below y: {', '.join(below)}" if below else "", flush=True)
if a.out:
    a.out.write_text("\n".join(lines) + "\n")
