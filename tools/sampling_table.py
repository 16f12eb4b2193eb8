#!/usr/bin/env python3
"""Which sampling settings suit the tasks: mean scores of one sample over a few held-out images, as a Markdown table.

  python3 tools/sampling_table.py target/release/adir FOLDER_OF_IMAGES > table.md      (needs Pillow)
"""
import json, os, statistics, subprocess, sys, tempfile
from PIL import Image, ImageDraw

adir, images = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
names = sorted(os.listdir(images))[20:24]
os.chdir(tempfile.mkdtemp())
mask = Image.new("L", (128, 128))
ImageDraw.Draw(mask).rectangle((48, 48, 79, 79), fill=255)
mask.save("mask.png")


def run(*args):
    return subprocess.run([adir, "-q", *args], check=True, capture_output=True, text=True).stdout


FEW = [["--eta", "0"], ["--eta", "1"]]
STRENGTHS = lambda *values: [["--scale", s, "--eta", e] for s in values for e in "01"]
ANCESTRAL = [["--method", "ancestral", "--steps", "50"]]
TASKS = {
    "denoise, sigma 25": (["--task", "denoise", "--sigma", "25"], STRENGTHS("6.5", "3", "1.6") + ANCESTRAL),
    "deblur box 5, sigma 10": (["--task", "deblur", "--kernel", "box:5", "--sigma", "10"], STRENGTHS("40", "10") + ANCESTRAL),
    "inpaint 32x32": (["--task", "inpaint", "--mask", "mask.png"], FEW),
    "colourise": (["--task", "colourise"], FEW),
    "sr4": (["--task", "sr4"], FEW),
}
print("| task | settings | PSNR | SSIM | agreement, dB |\n|---|---|---|---|---|")
for title, (task, settings) in TASKS.items():
    for i, name in enumerate(names):
        Image.open(os.path.join(images, name)).convert("RGB").crop((64, 64, 192, 192)).save(f"{i}.png")
        run("degrade", f"{i}.png", "-o", f"{i}.y.png", *task, "--overwrite", "--seed", "1")
    for setting in settings:
        scores = []
        for i in range(len(names)):
            run("restore", f"{i}.y.png", "-o", "r.png", *task, *setting, "--seed", "1", "--overwrite")
            scores.append(json.loads(run("compare", f"{i}.png", "r.png", "--observed", f"{i}.y.png", *task, "--json")))
        mean = lambda key: statistics.mean(float(s[key]) for s in scores)
        print(f"| {title} | {' '.join(setting)} | {mean('psnr_rgb'):.2f} | {mean('ssim_rgb'):.3f} | {mean('agreement_psnr'):.1f} |", flush=True)
