#!/usr/bin/env python3
"""Degrade, restore and compare images, and draw what came out: input, bicubic, result, truth, one image per row.

  python3 tools/sr4_sheet.py --adir target/release/adir --images FOLDER --count 10 --side 128 --steps 50 --out docs/results/sr4

Takes the centre `side` x `side` pixels of the first `count` images by name. Needs Pillow. Writes OUT.png (the first
eight rows) and OUT.md (every number).
"""
import argparse, json, os, statistics, subprocess, tempfile, time
from PIL import Image

ap = argparse.ArgumentParser()
ap.add_argument("--adir", required=True); ap.add_argument("--images", required=True); ap.add_argument("--out", required=True)
ap.add_argument("--count", type=int, default=10); ap.add_argument("--side", type=int, default=128)
ap.add_argument("--steps", default="50"); ap.add_argument("--seed", default="1"); ap.add_argument("--extra", default="")
a = ap.parse_args()


def adir(*args):
    return subprocess.run([a.adir, "-q", *map(str, args)], check=True, capture_output=True, text=True).stdout


rows, table = [], []
with tempfile.TemporaryDirectory() as tmp:
    p = lambda name: os.path.join(tmp, name)
    for name in sorted(os.listdir(a.images))[: a.count]:
        im = Image.open(os.path.join(a.images, name)).convert("RGB")
        l, t = (im.width - a.side) // 2, (im.height - a.side) // 2
        im.crop((l, t, l + a.side, t + a.side)).save(p("x.png"))
        adir("degrade", p("x.png"), "-o", p("y.png"), "--task", "sr4", "--overwrite")
        start = time.time()
        adir("restore", p("y.png"), "-o", p("r.png"), "--task", "sr4", "--steps", a.steps, "--seed", a.seed, "--overwrite", *a.extra.split())
        seconds = time.time() - start
        y = Image.open(p("y.png")).convert("RGB")
        y.resize((a.side, a.side), Image.BICUBIC).save(p("b.png"))
        score = lambda f: json.loads(adir("compare", p("x.png"), p(f), "--observed", p("y.png"), "--task", "sr4", "--json"))
        r, b = score("r.png"), score("b.png")
        table.append((name, b, r, seconds))
        rows.append([y.resize((a.side, a.side), Image.NEAREST)] + [Image.open(p(f)).convert("RGB") for f in ("b.png", "r.png", "x.png")])
sheet = Image.new("RGB", (4 * a.side + 6, min(8, len(rows)) * (a.side + 2)), "white")
for i, row in enumerate(rows[:8]):
    for j, im in enumerate(row):
        sheet.paste(im, (j * (a.side + 2), i * (a.side + 2)))
sheet.save(a.out + ".png")
with open(a.out + ".md", "w") as f:
    f.write(f"# Super-resolution x4, {a.side}x{a.side} pixels, {a.steps} steps, one sample, seed {a.seed}\n\n")
    f.write(f"`tools/sr4_sheet.py --count {a.count} --side {a.side} --steps {a.steps} --seed {a.seed}`, {time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPU cores. PSNR (dB)\n"
            "and SSIM against the truth. Agreement is the PSNR of A x against y, on the saved 8-bit files.\n\n")
    f.write(f"![Input, bicubic, result, truth]({os.path.basename(a.out)}.png)\n\n*Input, bicubic, result, truth, in the order of the table.*\n\n")
    f.write("| image | bicubic PSNR | PSNR | bicubic SSIM | SSIM | agreement, dB | seconds |\n|---|---|---|---|---|---|---|\n")
    for name, b, r, s in table:
        f.write(f"| {name} | {b['psnr_rgb']:.2f} | {r['psnr_rgb']:.2f} | {b['ssim_rgb']:.3f} | {r['ssim_rgb']:.3f} | {float(r['agreement_psnr']):.1f} | {s:.1f} |\n")
    m = lambda g: statistics.median(g(row) for row in table)
    f.write(f"| **median** | {m(lambda x: x[1]['psnr_rgb']):.2f} | {m(lambda x: x[2]['psnr_rgb']):.2f} | {m(lambda x: x[1]['ssim_rgb']):.3f} |"
            f" {m(lambda x: x[2]['ssim_rgb']):.3f} | {m(lambda x: float(x[2]['agreement_psnr'])):.1f} | {m(lambda x: x[3]):.1f} |\n")
