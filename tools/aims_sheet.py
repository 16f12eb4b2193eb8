#!/usr/bin/env python3
"""A sheet of what tools/front.py left in OUT: a row per task and picture; observation, aims 0, 0.5 and 1, truth.

    python tools/aims_sheet.py OUT sheet.jpg PICTURE [PICTURE ...]      # names without extension
"""
import sys
from pathlib import Path
import numpy as np
import tifffile
from PIL import Image

out, target, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
SIDE, GAP, COLUMNS = 128, 3, 5
rows = []
for task in ["sr4", "box10", "gauss2.55", "inpaint50", "denoise25"]:
    for name in names:
        truth = Image.open(out / f"{name}.png")
        degraded = out / f"{name}.{task}.tif"


        y = Image.fromarray((np.clip(tifffile.imread(degraded), 0, 1) * 255).round().astype("uint8")).resize((SIDE, SIDE), Image.BICUBIC)
        rows.append([y, *(Image.open(out / f"{name}.{task}.staged_{aim}.png") for aim in ["0", "0.5", "1"]), truth])
blocks = len(names)
sheet = Image.new("RGB", (blocks * (COLUMNS * (SIDE + GAP) + 12), len(rows) // blocks * (SIDE + GAP)), "white")
for i, row in enumerate(rows):
    for j, cell in enumerate(row):
        sheet.paste(cell.convert("RGB"), ((i % blocks) * (COLUMNS * (SIDE + GAP) + 12) + j * (SIDE + GAP), i // blocks * (SIDE + GAP)))
sheet.save(target, quality=88)
