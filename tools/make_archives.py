#!/usr/bin/env python3
"""Four kinds of archive unlike photographs, made from random numbers: maps, cells, fingerprints and fabrics.

    python3 tools/make_archives.py OUT

OUT/KIND/archive gets 60 images of 256x256 pixels, OUT/KIND/eval four others of 128x128 to degrade and restore. Nothing of the
program was chosen on them; docs/results/archives.md has what adaptation gains. Needs NumPy, SciPy and Pillow.
"""
import sys
from pathlib import Path
import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import convolve, gaussian_filter

SIDE = 256


def fingerprint(rng):
    """Ridges: noise filtered again and again by the Gabor function of the direction that each place has."""
    y, x = np.mgrid[:SIDE, :SIDE]
    core = rng.uniform(0.3, 0.7, 2) * SIDE
    delta = core[0] + rng.uniform(30, 90), core[1] - rng.uniform(-30, 30)
    angle = 0.5 * (np.arctan2(y - core[0], x - core[1]) - np.arctan2(y - delta[0], x - delta[1])) + rng.uniform(-0.2, 0.2)
    angle += gaussian_filter(rng.normal(size=(SIDE, SIDE)), 40) * 20
    frequency, ridges = rng.uniform(0.1, 0.14), rng.normal(size=(SIDE, SIDE))
    v, u = np.mgrid[-8:9, -8:9]
    kernels = []
    for turn in np.arange(16) * np.pi / 16:
        kernel = np.exp(-(u**2 + v**2) / (2 * 3.2**2)) * np.cos(2 * np.pi * frequency * (u * np.cos(turn) + v * np.sin(turn)))
        kernels.append(kernel - kernel.mean())
    nearest = np.round((angle + np.pi / 2) % np.pi / np.pi * 16).astype(int) % 16
    for _ in range(6):
        filtered = np.stack([convolve(ridges, kernel, mode="reflect") for kernel in kernels])
        ridges = np.take_along_axis(filtered, nearest[None], 0)[0]
        ridges = np.tanh(ridges / ridges.std() * 1.5)
    pores = gaussian_filter((rng.random((SIDE, SIDE)) < 0.002).astype(float), 1.0) * 8
    grey = 0.5 - 0.38 * ridges + pores * (ridges > 0)
    pressure = gaussian_filter(rng.normal(size=(SIDE, SIDE)), 25) * 1.5
    return grey * 0.8 + 0.15 + pressure + rng.normal(size=(SIDE, SIDE)) * 0.015


def cells(rng):
    """Cells in fluorescence: red membranes, green filaments, blue nuclei."""
    image = np.zeros((SIDE, SIDE, 3))
    y, x = np.mgrid[:SIDE, :SIDE]
    grain = lambda width: gaussian_filter(rng.normal(size=(SIDE, SIDE)), width)
    for _ in range(rng.integers(14, 30)):
        cy, cx = rng.uniform(0, SIDE, 2)
        a, b = rng.uniform(10, 22, 2)
        turn = rng.uniform(0, np.pi)
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        angle = np.arctan2(v, u)
        lobes = 1 + 0.08 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.05 * np.sin(5 * angle + rng.uniform(0, 6))
        radius = np.hypot(u / a, v / b) * lobes
        nucleus = 1 / (1 + np.exp((radius - 1) * 14))
        chromatin = np.clip(0.6 + 2.8 * grain(2), 0, 1.3)
        image[..., 2] = np.maximum(image[..., 2], nucleus * chromatin * rng.uniform(0.5, 1))
        membrane = np.exp(-(((radius - 1.9) / 0.12) ** 2))
        image[..., 0] = np.maximum(image[..., 0], membrane * rng.uniform(0.4, 0.9) * np.clip(0.7 + 3 * grain(1.5), 0, 1.5))
        body = 1 / (1 + np.exp((radius - 1.85) * 10))
        filaments = np.sin(rng.uniform(0.5, 0.9) * (u + 6 * np.sin(v / 9))) ** 8
        filaments = body * (0.12 + 0.5 * filaments) * (1 - 0.7 * nucleus) * rng.uniform(0.4, 0.9)
        image[..., 1] = np.maximum(image[..., 1], filaments)
    image = gaussian_filter(image, (0.7, 0.7, 0)) + 0.02
    return image + rng.normal(size=image.shape) * 0.012


def town(rng):
    """A map of a town, drawn four times as large."""
    size = 4 * SIDE
    image = Image.new("RGB", (size, size), (242, 239, 233))
    draw = ImageDraw.Draw(image)

    def line():
        start, end = rng.uniform(-0.2, 1.2, 2), rng.uniform(-0.2, 1.2, 2)
        t = np.linspace(0, 1, 60)[:, None]
        points = start * (1 - t) + end * t
        for wave in range(1, 4):
            points = points + np.sin(t * np.pi * wave) * rng.normal(size=2) * 0.2 / wave
        return [tuple(point * size) for point in points]

    greens_and_waters = [(200, 228, 178), (205, 235, 176), (170, 211, 223), (224, 223, 223)]
    for _ in range(rng.integers(2, 5)):
        centre, corners = rng.uniform(0, 1, 2) * size, rng.integers(6, 12)
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        points = [tuple(centre + rng.uniform(100, 260) * np.array([np.cos(a), np.sin(a)])) for a in angles]
        draw.polygon(points, fill=greens_and_waters[rng.integers(4)])
    draw.line(line(), fill=(170, 211, 223), width=int(rng.uniform(20, 60)), joint="curve")
    for _ in range(rng.integers(30, 70)):
        centre, turn = rng.uniform(0, 1, 2) * size, rng.uniform(0, np.pi)
        w, h = rng.uniform(16, 60, 2)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        corners = [tuple(centre + rotation @ np.array(c)) for c in [(-w, -h), (w, -h), (w, h), (-w, h)]]
        draw.polygon(corners, fill=(217, 208, 201), outline=(180, 170, 160))
    streets = [(14, (255, 255, 255))] * 6 + [(22, (252, 214, 164)), (22, (247, 250, 191)), (28, (232, 146, 162))]
    for width, colour in streets:
        if rng.random() < 0.75:
            way = line()
            draw.line(way, fill=(150, 140, 135), width=width + 6, joint="curve")
            draw.line(way, fill=colour, width=width, joint="curve")
    for _ in range(rng.integers(1, 4)):
        way = line()
        for i in range(0, 58, 2):
            draw.line(way[i : i + 2], fill=(110, 110, 110), width=5)
    for _ in range(rng.integers(4, 12)):
        x, y = rng.uniform(0, size, 2)
        r = rng.uniform(8, 14)
        draw.ellipse([x - r, y - r, x + r, y + r], fill=[(115, 74, 8), (200, 50, 50), (0, 90, 180)][rng.integers(3)])
    return np.asarray(image.resize((SIDE, SIDE), Image.LANCZOS)) / 255


def fabric(rng):
    """Threads in two directions, one over the other, on cloth that does not lie flat."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    y += gaussian_filter(rng.normal(size=(SIDE, SIDE)), 30) * 120
    x += gaussian_filter(rng.normal(size=(SIDE, SIDE)), 30) * 120
    pitch = rng.uniform(5, 9)
    i, j = np.floor(x / pitch), np.floor(y / pitch)
    over = ((i + j * rng.integers(1, 4)) % rng.integers(2, 4)) < 1
    round_of = lambda place: np.sqrt(np.clip(np.sin(np.pi * (place / pitch % 1)), 0, 1))
    colours, stripe_colour = rng.uniform(0.2, 0.9, (2, 3)), rng.uniform(0.2, 0.9, 3)
    stripes = np.floor(i / rng.integers(3, 8)) % 3 == 0
    warp = np.where(stripes[..., None], stripe_colour, colours[0]) * round_of(x)[..., None]
    weft = colours[1] * round_of(y)[..., None]
    fibres = 1 + 0.12 * np.sin(x * 2.3 + np.sin(y / 2)) * over + 0.12 * np.sin(y * 2.3) * ~over
    light = 1 + gaussian_filter(rng.normal(size=(SIDE, SIDE)), 40) * 8
    image = np.where(over[..., None], warp, weft) * (fibres * light)[..., None]
    image = gaussian_filter(image, (0.6, 0.6, 0))
    return image + rng.normal(size=image.shape) * 2 / 255


def main(out):
    for name, make in [("maps", town), ("cells", cells), ("fingerprints", fingerprint), ("fabrics", fabric)]:
        for part, count, first in [("archive", 60, 0), ("eval", 4, 1000)]:
            folder = Path(out) / name / part
            folder.mkdir(parents=True, exist_ok=True)
            for k in range(count):
                image = np.clip(np.round(make(np.random.default_rng(first + k)) * 255), 0, 255).astype(np.uint8)
                if part == "eval":
                    image = image[64:192, 64:192]
                Image.fromarray(image).save(folder / f"{k:03}.png")


if len(sys.argv) != 2:
    sys.exit(__doc__)
main(sys.argv[1])
