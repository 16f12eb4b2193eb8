#!/usr/bin/env python3
"""The gallery in examples/gallery: 256x256 tiles of freely licensed photographs from packages.

  python3 tools/make_gallery.py WALLPAPERS examples/gallery

WALLPAPERS holds the unpacked Debian packages lomiri-wallpapers-16.04 and lomiri-wallpapers-20.04 (dpkg-deb -x); the
other photographs come with scikit-image. Each photograph is shrunk to a short side, then tiles are cut where listed.
"""
import sys
from pathlib import Path
from PIL import Image
from skimage import data

source, out = Path(sys.argv[1]), Path(sys.argv[2]); out.mkdir(parents=True, exist_ok=True)
SIDE = 256
# file part or scikit-image's name: short side after shrinking, corners (left, top) in tiles
TILES = {
    "Kleiber": (560, [(0.3, 0.0), (0.4, 1.0), (0.9, 0.3), (1.25, 0.5)]),
    "Dragonfly": (640, [(0.0, 0.6), (0.6, 0.0), (1.2, 0.5), (0.5, 1.4), (2.2, 0.8), (1.6, 1.4)]),
    "seeding": (520, [(0.4, 0.0), (0.3, 0.9), (1.5, 0.6), (2.5, 0.9)]),
    "greentock": (560, [(0.2, 0.6), (1.3, 0.4), (0.4, 1.1)]),
    "free_by": (560, [(0.6, 1.1), (1.2, 0.2)]),
    "Bridge": (560, [(0.7, 1.1), (2.2, 0.4)]),
    "astronaut": (512, [(0.4, 0.0), (0.9, 1.0)]),
    "coffee": (400, [(0.1, 0.5), (1.0, 0.2)]),
}
for name, (short, corners) in TILES.items():
    found = sorted(source.rglob(f"*{name}*.jpg"))
    im = Image.open(found[0]).convert("RGB") if found else Image.fromarray(getattr(data, name)())
    scale = short / min(im.size)
    im = im.resize((round(im.width * scale), round(im.height * scale)), Image.LANCZOS)
    stem = name.split("_")[0].lower()
    for k, (x, y) in enumerate(corners):
        left, top = min(int(x * SIDE), im.width - SIDE), min(int(y * SIDE), im.height - SIDE)
        im.crop((left, top, left + SIDE, top + SIDE)).save(out / f"{stem}_{k}.webp", quality=88)
