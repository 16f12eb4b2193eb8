#!/usr/bin/env python3
"""Solvers side by side: distortion, perception and evaluations, as a table per task and a plot of the front.

    pip install numpy scipy pillow torch torchvision stlpips-pytorch torchsummary IPython
    python tools/front.py --adir target/release/adir --images FOLDER [FOLDER ...] --count 12 --out scratch/front

Centre crops of 128x128 of every N-th image are degraded and restored by the program, one sample each, with the same
seeds. PSNR and SSIM are of RGB in 8 bits, ST-LPIPS (Ghildyal and Liu 2022, AlexNet) is the learned distance; without its
package the column is empty. Differences to the first method are paired, with standard errors. What is in OUT is not
computed again. Without --methods a list of all solvers.
"""
import argparse, json, math, re, subprocess, sys
from pathlib import Path
import numpy as np
from PIL import Image
from scipy.ndimage import correlate1d

SIDE = 128
TASKS = {
    "sr4": (["--task", "sr4"], []),
    "box10": (["--task", "deblur", "--kernel", "box:5", "--sigma", "10"], ["--boundary", "circular"]),
    "gauss2.55": (["--task", "deblur", "--kernel", "gaussian:9:1.6", "--sigma", "2.55"], ["--boundary", "circular"]),
    "inpaint50": (["--task", "inpaint"], []),
    "denoise25": (["--task", "denoise", "--sigma", "25"], []),
}
METHODS = [
    "few-step 50:--method few-step", "staged 0:--aim 0", "staged 0.25:--aim 0.25", "staged 0.5:--aim 0.5", "staged 0.75:--aim 0.75", "staged 1:--aim 1",
    "ddnm 20:--method ddnm --steps 20", "ddnm 100:--method ddnm", "ddrm 20:--method ddrm", "diffpir 20:--method diffpir --steps 20", "diffpir 100:--method diffpir",
]


def read(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(np.float64)


def psnr(a, b):
    return 10 * math.log10(255**2 / max(((a - b) ** 2).mean(), 1e-9))


def ssim(a, b):
    """Wang's: Gaussian 11x11 of 1.5, valid positions, mean over the channels."""
    g = np.exp(-((np.arange(11) - 5) ** 2) / 4.5); g /= g.sum()
    f = lambda z: correlate1d(correlate1d(z, g, axis=0), g, axis=1)[5:-5, 5:-5]
    ma, mb = f(a), f(b); va, vb, cov = f(a * a) - ma * ma, f(b * b) - mb * mb, f(a * b) - ma * mb
    return float((((2 * ma * mb + 6.5025) * (2 * cov + 58.5225)) / ((ma**2 + mb**2 + 6.5025) * (va + vb + 58.5225))).mean())


def distance():
    try:
        import torch
        from stlpips_pytorch import stlpips
    except ImportError:
        return None
    net = stlpips.LPIPS(net="alex", variant="shift_tolerant").eval()
    tensor = lambda x: torch.from_numpy(x / 127.5 - 1).permute(2, 0, 1)[None].float()
    def of(a, b):
        with torch.no_grad(): return float(net(tensor(a), tensor(b)))
    return of


def mean_error(values):
    v = np.asarray(values, float)
    return v.mean(), (v.std(ddof=1) / math.sqrt(len(v)) if len(v) > 1 else 0.0)


def plot(points, path):
    """PSNR to the right, distance upwards: the better, the nearer to the lower right. `points`: task -> [(name, psnr, distance)]."""
    colours = ["#1b6ca8", "#c0392b", "#27824a", "#8e44ad", "#b9770e"]; width, height, out = 340, 300, []
    for k, (task, rows) in enumerate(points.items()):
        x0 = 20 + k * (width + 30); xs, ys = [r[1] for r in rows], [r[2] for r in rows]
        px = lambda v: x0 + 40 + (v - min(xs)) / (max(xs) - min(xs) + 1e-9) * (width - 110)
        py = lambda v: height - 30 - (v - min(ys)) / (max(ys) - min(ys) + 1e-9) * (height - 90)
        out.append(f'<text x="{x0}" y="18" font-weight="bold">{task}: PSNR {min(xs):.1f} to {max(xs):.1f} dB, ST-LPIPS {min(ys):.3f} to {max(ys):.3f}</text>')
        out.append(f'<rect x="{x0 + 20}" y="30" width="{width - 20}" height="{height - 40}" fill="none" stroke="#999"/>')
        knob = [r for r in rows if r[0].startswith("staged")]
        out.append('<polyline fill="none" stroke="#333" points="' + " ".join(f"{px(r[1]):.1f},{py(r[2]):.1f}" for r in knob) + '"/>')
        for name, a, b in rows:
            colour = "#333" if name.startswith("staged") else colours[sum(map(ord, name.split()[0])) % 5]
            out.append(f'<circle cx="{px(a):.1f}" cy="{py(b):.1f}" r="3.5" fill="{colour}"/><text x="{px(a) + 5:.1f}" y="{py(b) - 4:.1f}" fill="{colour}">{name}</text>')
    total = 20 + len(points) * (width + 30)
    Path(path).write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{height}" font-family="sans-serif" font-size="10"><rect width="100%" height="100%" fill="white"/>' + "".join(out) + "</svg>\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--adir", required=True); ap.add_argument("--images", nargs="+", required=True); ap.add_argument("--out", required=True)
    ap.add_argument("--count", type=int, default=12); ap.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    ap.add_argument("--methods", nargs="+", default=METHODS, metavar="NAME:OPTIONS"); ap.add_argument("--model")
    a = ap.parse_args(); out = Path(a.out); out.mkdir(parents=True, exist_ok=True); learned = distance()
    model = ["--model", a.model] if a.model else []
    files = [f for d in a.images for f in (lambda l: [l[i * len(l) // a.count] for i in range(min(a.count, len(l)))])(sorted(p for p in Path(d).iterdir() if p.suffix in {".png", ".jpg", ".jpeg", ".webp"}))]
    run = lambda *args: subprocess.run([a.adir, *map(str, args), "-q", "--overwrite"], check=True)
    points = {}
    for task in a.tasks:
        options, assumed = TASKS[task]; results = {}
        for method in a.methods:
            name, _, extra = method.partition(":"); rows = []
            for i, f in enumerate(files):
                base = out / f.stem; x = base.with_suffix(".png")
                if not x.exists():
                    im = Image.open(f).convert("RGB"); l, t = (im.width - SIDE) // 2, (im.height - SIDE) // 2
                    im.crop((l, t, l + SIDE, t + SIDE)).save(x)
                    mask = np.random.default_rng(1000 + i).permutation(SIDE * SIDE).reshape(SIDE, SIDE) < SIDE * SIDE // 2
                    Image.fromarray((mask * 255).astype(np.uint8)).save(out / f"{f.stem}.mask.png")
                more = ["--mask", out / f"{f.stem}.mask.png"] if task == "inpaint50" else []
                y = out / f"{f.stem}.{task}.tif"
                if not y.exists(): run("degrade", x, "-o", y, *options, *more, "--seed", 100 + i)
                z = out / f"{f.stem}.{task}.{re.sub('[^a-z0-9.]+', '_', name)}.png"; record = Path(f"{z}.json")
                if not z.exists(): run("restore", y, "-o", z, *options, *assumed, *more, *model, "--seed", 7, *extra.split())
                j = json.loads(record.read_text()); r, truth = read(z), read(x)
                rows.append((psnr(r, truth), ssim(r, truth), learned(r, truth) if learned else math.nan, j["settings"]["steps"], j["seconds"]["sample"], j["agreement_psnr"]))
            results[name] = rows
        first = np.array(results[a.methods[0].partition(":")[0]], dtype=object)[:, 0].astype(float)
        print(f"\n### {task}, n = {len(files)}\n\n| method | evaluations | PSNR, dB | against {a.methods[0].partition(':')[0]} | SSIM | ST-LPIPS | agreement, dB | s |\n|---|---|---|---|---|---|---|---|")
        for name, rows in results.items():
            c = list(zip(*rows)); p, d = mean_error(c[0]), mean_error(np.array(c[0]) - first); l = mean_error(c[2])
            agree = [float(v) for v in c[5] if isinstance(v, (int, float))]
            print(f"| {name} | {c[3][0]} | {p[0]:.2f} ± {p[1]:.2f} | {d[0]:+.2f} ± {d[1]:.2f} | {np.mean(c[1]):.3f} | {l[0]:.3f} ± {l[1]:.3f} | {np.mean(agree) if agree else math.inf:.1f} | {np.median(c[4]):.1f} |", flush=True)
        points[task] = [(name, float(np.mean([r[0] for r in rows])), float(np.mean([r[2] for r in rows]))) for name, rows in results.items()]
    if learned: plot(points, out / "front.svg")


if __name__ == "__main__":
    sys.exit(main())
