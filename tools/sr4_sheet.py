#!/usr/bin/env python3
"""Degrade, restore and compare images, and draw what came out: input, bicubic, faithful, detailed, truth, one image per row.

  python3 tools/sr4_sheet.py --adir target/release/adir --images FOLDER --count 10 --side 128 --out docs/results/sr4

Takes the centre `side` x `side` pixels of `count` images, spread evenly over the folder. Needs Pillow. Writes OUT.jpg (the
first six rows) and OUT.md (every number).
"""
import argparse, json, os, statistics, subprocess, tempfile, time
from PIL import Image

ap = argparse.ArgumentParser()
ap.add_argument("--adir", required=True); ap.add_argument("--images", required=True); ap.add_argument("--out", required=True)
ap.add_argument("--count", type=int, default=10); ap.add_argument("--side", type=int, default=128); ap.add_argument("--seed", default="1")
a = ap.parse_args()
AIMS, ROWS, GAP = {"faithful": "0", "detailed": "1"}, 6, 3


def adir(*args):
    return subprocess.run([a.adir, "-q", *map(str, args)], check=True, capture_output=True, text=True).stdout


rows, table = [], []
with tempfile.TemporaryDirectory() as tmp:
    p = lambda name: os.path.join(tmp, name)
    names = sorted(os.listdir(a.images))
    for name in (names[i * len(names) // a.count] for i in range(a.count)):
        im = Image.open(os.path.join(a.images, name)).convert("RGB")
        l, t = (im.width - a.side) // 2, (im.height - a.side) // 2
        im.crop((l, t, l + a.side, t + a.side)).save(p("x.png"))
        adir("degrade", p("x.png"), "-o", p("y.png"), "--task", "sr4", "--overwrite")
        y = Image.open(p("y.png")).convert("RGB")
        y.resize((a.side, a.side), Image.BICUBIC).save(p("bicubic.png"))
        for aim, value in AIMS.items():
            adir("restore", p("y.png"), "-o", p(f"{aim}.png"), "--task", "sr4", "--aim", value, "--seed", a.seed, "--overwrite")
        score = lambda f: json.loads(adir("compare", p("x.png"), p(f"{f}.png"), "--observed", p("y.png"), "--task", "sr4", "--json"))
        table.append((os.path.splitext(name)[0], [score(f) for f in ["bicubic", *AIMS]]))
        rows.append([y.resize((a.side, a.side), Image.NEAREST)] + [Image.open(p(f"{f}.png")).convert("RGB") for f in ["bicubic", *AIMS, "x"]])
sheet = Image.new("RGB", (5 * (a.side + GAP) - GAP, min(ROWS, len(rows)) * (a.side + GAP) - GAP), "white")
for i, row in enumerate(rows[:ROWS]):
    for j, im in enumerate(row):
        sheet.paste(im, (j * (a.side + GAP), i * (a.side + GAP)))
sheet.save(a.out + ".jpg", quality=93)
agreement = lambda found: float(found["agreement_psnr"])
with open(a.out + ".md", "w") as f:
    f.write(f"# Super-resolution x4 to {a.side}x{a.side} pixels, one sample, seed {a.seed}\n\n")
    f.write(f"`tools/sr4_sheet.py --count {a.count} --side {a.side} --seed {a.seed}`, {time.strftime('%Y-%m-%d')}, photographs that nothing was\n"
            "tuned on. PSNR (dB) and SSIM are of RGB. Agreement is the PSNR of A x against y, on the saved files of 8 bits.\n\n")
    f.write(f"![Input, bicubic, faithful, detailed, truth]({os.path.basename(a.out)}.jpg)\n\n"
            "*Input, bicubic, `--aim faithful` (the default), `--aim detailed`, truth, in the order of the table.*\n\n")
    f.write("| image | bicubic | faithful | detailed | agreement of faithful, dB |\n|---|---|---|---|---|\n")
    cell = lambda found: f"{found['psnr_rgb']:.2f}, {found['ssim_rgb']:.3f}"
    for name, found in table:
        f.write(f"| {name} | {' | '.join(map(cell, found))} | {agreement(found[1]):.1f} |\n")
    median = lambda k, get: statistics.median(get(found[k]) for _, found in table)
    cells = [cell({key: median(k, lambda found: found[key]) for key in ("psnr_rgb", "ssim_rgb")}) for k in range(3)]
    f.write(f"| **median** | {' | '.join(cells)} | {median(1, agreement):.1f} |\n")
