#!/usr/bin/env python3
"""The pages in examples/pages and the page to restore: text of this repository's documentation, set on paper with grain.

    python3 tools/make_pages.py examples

Needs Pillow, NumPy and the DejaVu fonts (Debian: fonts-dejavu-core, fonts-dejavu-extra). The page to restore is of another text than
the gallery's; `adir degrade examples/page.png -o examples/page_small.png --task sr2` makes what is observed of it.
"""
import re, sys, textwrap
from pathlib import Path
import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE, SCALE, PAGES = 256, 4, 20
ROOT = Path(__file__).resolve().parent.parent
FONTS = Path("/usr/share/fonts/truetype/dejavu")
TEXTS = ["docs/scale.md", "docs/guide/kernels-and-borders.md", "docs/guide/image-files.md", "docs/guide/web.md", "ARCHITECTURE.md"]
OTHER = "docs/guide/adapting-to-an-archive.md"


def words(file):
    """Prose only: no code, tables, links or markup."""
    text = re.sub(r"```.*?```", " ", (ROOT / file).read_text(), flags=re.S)
    lines = [line for line in text.splitlines() if line and not line.startswith(("|", "#", "!", "    "))]
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*_]", lambda m: m.group(1) or "", " ".join(lines))
    return text.split()


def page(text, font, size, rng):
    """A page of that text, and how many words are on it."""
    side = (SIDE + 16) * SCALE
    im = Image.new("L", (side, side), 255); draw = ImageDraw.Draw(im)
    face = ImageFont.truetype(str(FONTS / font), size * SCALE)
    y, used, gap = rng.integers(8, 16) * SCALE, 0, int(size * 1.42) * SCALE
    left, right = int(rng.integers(16, 26)) * SCALE, side - int(rng.integers(14, 22)) * SCALE
    while y + gap < side and used < len(text):
        line = []
        while used < len(text) and draw.textlength(" ".join(line + [text[used]]), face) <= right - left:
            line.append(text[used]); used += 1
        if not line:
            used += 1; continue
        draw.text((left, y), " ".join(line), fill=0, font=face)
        # A new paragraph now and then.
        y += gap if rng.random() > 0.12 else int(1.6 * gap)
    im = im.rotate(rng.normal(0, 0.4), Image.BICUBIC, fillcolor=255).resize((SIDE + 16,) * 2, Image.LANCZOS)
    ink = 1 - np.asarray(im.crop((8, 8, 8 + SIDE, 8 + SIDE)), np.float64)[..., None] / 255
    paper = np.array([238.0, 231.0, 217.0]) + rng.normal(0, 3, 3)
    light = 1 + 0.04 * (np.linspace(-1, 1, SIDE)[:, None, None] * rng.normal() + np.linspace(-1, 1, SIDE)[None, :, None] * rng.normal()) / 2
    found = (paper * (1 - ink) + np.array([42.0, 38.0, 36.0]) * ink) * light + rng.normal(0, 1.5, (SIDE, SIDE, 1))
    return Image.fromarray(np.clip(np.rint(found), 0, 255).astype(np.uint8)), used


out = Path(sys.argv[1]); (out / "pages").mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(7)
FACES = ["DejaVuSerif.ttf", "DejaVuSerif-Italic.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSerifCondensed.ttf"]
text = [word for file in TEXTS for word in words(file)]
for k in range(PAGES):
    font = FACES[0] if k % 2 == 0 else FACES[k // 2 % len(FACES)]
    im, used = page(text, font, int(rng.integers(15, 18)), rng)
    im.save(out / "pages" / f"page_{k:02}.webp", quality=90); text = text[used:]
im, _ = page(words(OTHER), FACES[0], 16, rng)
im.save(out / "page.png", optimize=True)
