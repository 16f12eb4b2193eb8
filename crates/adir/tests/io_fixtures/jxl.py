#!/usr/bin/env python3
"""JPEG XL files for tests/io_jxl.rs, by libjxl. Needs imagecodecs, pillow and pillow-jxl-plugin. Run in this folder."""
import imagecodecs, numpy as np, pillow_jxl
from PIL import Image

h, w = 17, 23
k, i, j = np.mgrid[0:4, 0:h, 0:w]
eight = ((i * 7 + j * 13 + k * 29 + i * j % 101) % 256).astype(np.uint8).transpose(1, 2, 0)
sixteen = ((i[0] * 4099 + j[0] * 257 + 77) % 65536).astype(np.uint16)
unit = ((i[0] * 23 + j[0]) / 391).astype(np.float32)

def save(name, values, **options):
    open(f"jxl_{name}.jxl", "wb").write(imagecodecs.jpegxl_encode(values, **options))

save("rgb8", eight[..., :3].copy(), lossless=True)
save("rgba8", eight, lossless=True)
save("grey16", sixteen, lossless=True)
save("float", unit, lossless=True)
save("frames", np.stack([eight[..., :3], 255 - eight[..., :3]]), lossless=True)
smooth = (128 + 100 * np.sin(i / 5) * np.cos(j / 7 + k)).astype(np.uint8).transpose(1, 2, 0)[..., :3].copy()
save("lossy", smooth, distance=1.0)
Image.fromarray(imagecodecs.jpegxl_decode(open("jxl_lossy.jxl", "rb").read())).save("jxl_lossy.png")
# A container with metadata: turned by the codestream, and EXIF that says so, too.
exif = Image.Exif()
exif[0x0112], exif[0x010F] = 6, "maker"
Image.fromarray(eight[..., :3].copy()).save("jxl_exif.jxl", lossless=True, exif=exif.tobytes(), use_container=True)
