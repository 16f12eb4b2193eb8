#!/usr/bin/env python3
"""AVIF files for src/io/codec/avif/tests.rs, by Pillow and the libavif in its wheel, and what libavif decodes of them (.raw, samples
of 8 or 16 bits, those with the low byte first; of the grid every tenth pixel). Needs numpy and Pillow 13 (Linux). Run in this folder.

Not made here: ten, ten422 and twelve, which rav1e 0.8 and avif-serialize wrote, because Pillow's encoder has 8 bits only. Their .raw
files are made here.
"""

import ctypes as C
from pathlib import Path
import numpy as np
import PIL
from PIL import Image, ImageCms

rng = np.random.default_rng(5)

# libavif through ctypes: it writes and reads what Pillow cannot.
L = C.CDLL(next(str(file) for file in (Path(PIL.__file__).parents[1] / "pillow.libs").glob("libavif*.so*")))


class RW(C.Structure):
    _fields_ = [("data", C.c_void_p), ("size", C.c_size_t)]


class Img(C.Structure):
    _fields_ = [
        ("width", C.c_uint32),
        ("height", C.c_uint32),
        ("depth", C.c_uint32),
        ("fmt", C.c_int),
        ("range", C.c_int),
        ("pos", C.c_int),
        ("planes", C.c_void_p * 3),
        ("rows", C.c_uint32 * 3),
        ("own", C.c_int),
        ("alpha", C.c_void_p),
        ("arow", C.c_uint32),
        ("aown", C.c_int),
        ("aprem", C.c_int),
        ("icc", RW),
        ("pri", C.c_uint16),
        ("trc", C.c_uint16),
        ("mtx", C.c_uint16),
    ]


class Rgb(C.Structure):
    _fields_ = [
        ("width", C.c_uint32),
        ("height", C.c_uint32),
        ("depth", C.c_uint32),
        ("format", C.c_int),
        ("up", C.c_int),
        ("down", C.c_int),
        ("noyuv", C.c_int),
        ("ignoreAlpha", C.c_int),
        ("prem", C.c_int),
        ("isFloat", C.c_int),
        ("threads", C.c_int),
        ("pixels", C.c_void_p),
        ("rowBytes", C.c_uint32),
        ("pad", C.c_uint32 * 8),
    ]


class Enc(C.Structure):
    _fields_ = [
        ("codec", C.c_int),
        ("threads", C.c_int),
        ("speed", C.c_int),
        ("key", C.c_int),
        ("ts", C.c_uint64),
        ("rep", C.c_int),
        ("layers", C.c_uint32),
        ("q", C.c_int),
        ("qa", C.c_int),
    ]


for n, r in dict(
    avifImageCreate=C.POINTER(Img),
    avifImageCreateEmpty=C.POINTER(Img),
    avifEncoderCreate=C.POINTER(Enc),
    avifDecoderCreate=C.c_void_p,
).items():
    getattr(L, n).restype = r
L.avifResultToString.restype = C.c_char_p


def ok(r):
    assert r == 0, L.avifResultToString(r)


FMT = {444: 1, 422: 2, 420: 3, 400: 4}


def image(arr, depth, fmt, mtx=6, pri=1, trc=13, full=1, prem=0):
    """arr: HxWxC of depth-bit values (C 3 or 4)."""
    h, w, c = arr.shape
    im = L.avifImageCreate(w, h, depth, FMT[fmt])
    i = im.contents
    i.pri, i.trc, i.mtx, i.range = pri, trc, mtx, full
    rgb = Rgb()
    L.avifRGBImageSetDefaults(C.byref(rgb), im)
    a = np.ascontiguousarray(arr.astype(np.uint8 if depth == 8 else np.uint16))
    rgb.format = 0 if c == 3 else 1
    rgb.noyuv = 1
    rgb.prem = prem
    i.aprem = prem
    rgb.pixels = a.ctypes.data
    rgb.rowBytes = a.strides[0]
    ok(L.avifImageRGBToYUV(im, C.byref(rgb)))
    return im


def write(name, ims, q=90, grid=None, speed=8):
    e = L.avifEncoderCreate()
    e.contents.q = e.contents.qa = q
    e.contents.speed = speed
    e.contents.threads = 1
    if grid:
        arr = (C.POINTER(Img) * len(ims))(*ims)
        ok(L.avifEncoderAddImageGrid(e, grid[0], grid[1], arr, 2))
    else:
        ok(L.avifEncoderAddImage(e, ims, C.c_uint64(1), 2))
    out = RW()
    ok(L.avifEncoderFinish(e, C.byref(out)))
    open(name, "wb").write(C.string_at(out.data, out.size))


def read(name, depth=None, noyuv=1, alpha=True):
    d = C.c_void_p(L.avifDecoderCreate())
    im = L.avifImageCreateEmpty()
    ok(L.avifDecoderReadFile(d, im, name.encode()))
    i = im.contents
    rgb = Rgb()
    L.avifRGBImageSetDefaults(C.byref(rgb), im)
    rgb.depth = depth or (8 if i.depth == 8 else 16)
    rgb.noyuv = noyuv
    rgb.up = 4
    rgb.format = 1
    rgb.prem = i.aprem
    a = np.zeros((i.height, i.width, 4), np.uint8 if rgb.depth == 8 else np.uint16)
    rgb.pixels = a.ctypes.data
    rgb.rowBytes = a.strides[0]
    ok(L.avifImageYUVToRGB(im, C.byref(rgb)))
    return a, dict(depth=i.depth, fmt=i.fmt, hasalpha=bool(i.alpha), prem=i.aprem)


def photo(h, w, c):
    y, x = np.mgrid[0:h, 0:w].astype(float)
    chans = [
        127 + 90 * np.sin(x / (7 + 3 * k) + k) * np.cos(y / (9 - 2 * k) + 0.5 * k) + 30 * ((x // 8 + y // 8) % 2)
        for k in range(c)
    ]
    return np.clip(np.stack(chans, -1) + rng.normal(0, 6, (h, w, c)), 0, 255).astype(np.uint8)


def smooth(h, w, c):
    y, x = np.mgrid[0:h, 0:w].astype(float)
    return (
        np.stack([40 + x * 150 / w + y * 50 / h, 220 - x * 100 / w - y * 90 / h, 60 + y * 170 / h, 30 + x * 200 / w][:c], -1)
        .round()
        .astype(np.uint8)
    )


a = photo(5, 7, 4)


def pil(name, arr, **kw):
    Image.fromarray(arr[..., 0] if arr.shape[-1] == 1 else arr).save(name + ".avif", speed=8, **kw)


pil("420", a[..., :3], quality=80, subsampling="4:2:0", range="limited")
pil("422", a[..., :3], quality=80, subsampling="4:2:2")
pil("444", a[..., :3], quality=100, subsampling="4:4:4")
pil("400", a[..., :1], quality=80, range="limited")
pil("alpha", a, quality=80, subsampling="4:2:0")
write("prem.avif", image(np.minimum(a, a[..., 3:]), 8, 444, prem=1), q=80)
write("rgb.avif", image(a[..., :3], 8, 444, mtx=0), q=90)
write("ycgco.avif", image(a[..., :3], 8, 444, mtx=8), q=90)
write("bt2020.avif", image(a[..., :3], 8, 420, mtx=9, pri=9, trc=14, full=0), q=90)
write("p3.avif", image(a[..., :3], 8, 420, mtx=6, pri=12), q=90)
write("pq.avif", image(a[:1, :1, :3], 8, 420, mtx=9, pri=9, trc=16), q=90)
write("grid.avif", [image(smooth(70, 110, 4)[:, :66], 8, 420), image(smooth(70, 110, 4)[:, 66:], 8, 420)], q=60, grid=(2, 1))
for o in range(1, 9):
    ex = Image.Exif()
    ex[0x112] = o
    ex[0x10F] = "maker"
    pil(f"turned{o}", a[..., :3], quality=80, exif=ex.tobytes())
pil(
    "icc",
    a[..., :3],
    quality=80,
    icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    xmp=b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>',
)
ims = [Image.fromarray(photo(5, 7, 3)) for _ in range(2)]
ims[0].save("film.avif", save_all=True, append_images=ims[1:], quality=60)

for file in sorted(Path(".").glob("*.avif")):
    values, facts = read(str(file))
    if facts["fmt"] == 4:
        values = values[..., [0, 3]]
    if not facts["hasalpha"]:
        values = values[..., :-1]
    if file.stem == "grid":
        values = values[::10, ::10]
    if file.stem == "pq":
        continue
    if not file.stem.startswith("turned") or file.stem == "turned6":
        file.with_suffix(".raw").write_bytes(values.astype(values.dtype.newbyteorder("<")).tobytes())
