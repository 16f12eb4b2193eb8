#!/usr/bin/env python3
"""Before and after: borders, grey pictures, white stars and bright points, as a sheet. Earlier behaviour comes from options.

    python3 tools/faults_sheet.py docs/results/faults.jpg [--adir target/release/adir]

Each row: observation, before, after, truth. The stars are shown four times as bright. Needs numpy, scipy, Pillow, tifffile.
"""
import argparse, subprocess, tempfile
from pathlib import Path
import numpy as np
import tifffile
from PIL import Image
from scipy.ndimage import correlate1d, uniform_filter

ROOT = Path(__file__).resolve().parent.parent
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("out", type=Path); ap.add_argument("--adir", default=ROOT / "target/release/adir")
a = ap.parse_args()
folder, noise = Path(tempfile.mkdtemp(prefix="adir-faults-")), np.random.default_rng(1)


def restored(y, options, name):
    """A file of 8 bits, or of floats with white at 1."""
    is_float = name.endswith(".tif")
    if is_float:
        tifffile.imwrite(folder / f"y{name}", (y / 255).astype("float32"))
    else:
        Image.fromarray(np.clip(np.round(y), 0, 255).astype("uint8")).save(folder / f"y{name}")
    command = [a.adir, "restore", folder / f"y{name}", "-o", folder / name, "-q", "--overwrite", *options]
    subprocess.run([str(word) for word in command], check=True, stderr=subprocess.DEVNULL)
    return tifffile.imread(folder / name) * 255.0 if is_float else np.asarray(Image.open(folder / name)).astype(float)


def row(title, x, y, task, before, after, name="x.png", near=None):
    old, new = (restored(y, ["--task", *task, *options], name) for options in (before, after))
    error = lambda z: np.sqrt(((np.clip(z, 0, 255) - np.clip(x, 0, 255)) ** 2).mean())
    text = f"| {title} | {error(y):.1f} | {error(old):.1f} | {error(new):.1f} |"
    if near is not None:
        away = ~near
        text += f" least and most off the stars: {old[away].min():.0f} to {old[away].max():.0f}, now {new[away].min():.0f} to {new[away].max():.0f} (sky {x[away].min():.0f})"
    print(text, flush=True)
    return [y, old, new, x], 1 if near is None else 4


cat = np.asarray(Image.open(ROOT / "examples/cat.png").convert("RGB")).astype(float)
window = lambda of: of[64:192, 64:192]
scene = window(cat)
rows = [row("borders", scene, window(uniform_filter(cat, (9, 9, 1))) + noise.normal(0, 2, scene.shape), ["deblur", "--kernel", "box:9"],
            ["--sigma", "2", "--boundary", "circular"], ["--sigma", "2"])]
grey = cat @ [0.299, 0.587, 0.114]
# One value in three channels, weighed as three measurements: noise smaller by the root of 3.
rows.append(row("grey", window(grey), window(grey) + noise.normal(0, 25, (128, 128)), ["denoise"],
                ["--sigma", f"{25 / 3**0.5:.2f}"], ["--sigma", "25"]))
g = np.exp(-np.arange(-7, 8) ** 2 / (2 * 1.8**2)); g /= g.sum()
for title, lights, name in [("white stars", [20000, 12000, 5000, 900, 300], "x.png"), ("bright points, in floats", [40000, 20000, 5000, 900, 300], "x.tif")]:
    sky = np.full((64, 64), 13.0); near = np.zeros((64, 64), bool)
    for light, (r, c) in zip(lights, [(18, 20), (44, 46), (48, 14), (12, 50), (32, 36)]):
        sky[r, c] += light; near[r - 3 : r + 4, c - 3 : c + 4] = True
    blurred = correlate1d(correlate1d(sky, g, axis=0), g, axis=1) + noise.normal(0, 1, sky.shape)
    y = blurred if name.endswith("tif") else np.clip(blurred, 0, 255)
    rows.append(row(title, sky, y, ["deblur", "--kernel", "gaussian:15:1.8"], ["--sigma", "1", "--saturated", "keep"], ["--sigma", "1"], name, near))
gap, side = 4, 192
sheet = Image.new("RGB", (4 * (side + gap) - gap, len(rows) * (side + gap) - gap), "white")
for i, (cells, brighter) in enumerate(rows):
    for j, cell in enumerate(cells):
        pixels = np.clip(np.round(cell * brighter), 0, 255).astype("uint8")
        image = Image.fromarray(pixels).convert("RGB").resize((side, side), Image.NEAREST)
        sheet.paste(image, (j * (side + gap), i * (side + gap)))
sheet.save(a.out, quality=90)
