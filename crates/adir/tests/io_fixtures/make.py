"""Makes the files beside this script and what they hold according to Pillow and tifffile.

Needs numpy, pillow, tifffile, imagecodecs, safetensors and OpenEXR. Run in this folder.
"""

import numpy as np
import OpenEXR as E
import tifffile
from PIL import Image, ImageCms, ImageOps
from safetensors.numpy import save_file

rng = np.random.default_rng(1)
expected = {}


def expect(name, array, white):
    """Records h x w x c samples as [c, h, w] in [-1, 1]; a last channel of alpha goes apart, in [0, 1]."""
    array = np.asarray(array)
    array = array.astype(np.float64).reshape(*array.shape[:2], -1) / white
    if array.shape[2] in (2, 4):
        expected[f"alpha.{name}"] = array[:, :, -1].astype(np.float32)
        array = array[:, :, :-1]
    expected[f"image.{name}"] = np.ascontiguousarray((2 * array - 1).transpose(2, 0, 1).astype(np.float32))



def exr_files():
    """Values that io_exr.rs knows."""
    y, x, c = np.mgrid[0:24, 0:20, 0:3]
    values = (0.5 + (x // 2 + y // 3 * 5 + c * 7) % 32 / 64).astype(np.float32)
    half = values.astype(np.float16)
    def write(name, compression, channels, **more):
        header = {"compression": compression, "type": E.scanlineimage, **more}
        with E.File(header, channels) as f:
            f.write(name)
    write("piz.exr", E.PIZ_COMPRESSION, {"RGB": half})
    write("rle.exr", E.RLE_COMPRESSION, {"RGB": half})
    write("pxr24.exr", E.PXR24_COMPRESSION, {"Y": values[..., 0].copy()})
    tiles = E.TileDescription()
    tiles.xSize, tiles.ySize = 16, 16
    alpha = np.full((24, 20, 1), 0.5, np.float32)
    channels = {"beauty": np.concatenate([values * 0.5, alpha], -1), "Z": values[..., 1].copy()}
    write("tiled.exr", E.ZIPS_COMPRESSION, channels, type=E.tiledimage, tiles=tiles, comments="a tile", owner="someone")
    header = {"compression": E.ZIP_COMPRESSION, "type": E.scanlineimage}
    depth = E.Part({**header, "name": "depth"}, {"Z": values[..., 0].copy()})
    with E.File([depth, E.Part({**header, "name": "beauty"}, {"RGB": half})]) as f:
        f.write("parts.exr")


exr_files()
rgb = rng.integers(0, 256, (7, 5, 3), dtype=np.uint8)
rgba = rng.integers(0, 256, (7, 5, 4), dtype=np.uint8)
grey16 = rng.integers(0, 65536, (7, 5), dtype=np.uint16)
rgb16 = rng.integers(0, 65536, (7, 5, 3), dtype=np.uint16)
smooth = Image.fromarray(rgb).resize((40, 24), Image.BICUBIC)
profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
exif = Image.Exif()
exif[0x010E] = "a test"  # ImageDescription

Image.fromarray(rgb).save("rgb.png", icc_profile=profile)
expect("rgb.png", rgb, 255)
Image.fromarray(rgba).save("rgba.png")
expect("rgba.png", rgba, 255)
palette = Image.fromarray(rgb).quantize(16)
palette.save("palette.png", transparency=3)
expect("palette.png", np.asarray(Image.open("palette.png").convert("RGBA")), 255)
bilevel = Image.fromarray(rgb).convert("1")
bilevel.save("bilevel.png")
expect("bilevel.png", np.asarray(bilevel).astype(np.uint8), 1)
Image.fromarray(rgba[:, :, :2], "LA").save("grey_alpha.png")
expect("grey_alpha.png", rgba[:, :, :2], 255)
Image.fromarray(grey16).save("grey16.png")
expect("grey16.png", grey16, 65535)

for orientation in range(1, 9):
    exif[0x0112] = orientation
    smooth.save(f"orientation{orientation}.jpg", quality=95, subsampling=0, exif=exif)
    shown = ImageOps.exif_transpose(Image.open(f"orientation{orientation}.jpg"))
    expect(f"orientation{orientation}.jpg", shown, 255)
smooth.convert("L").save("progressive_grey.jpg", progressive=True)
expect("progressive_grey.jpg", Image.open("progressive_grey.jpg"), 255)
smooth.save("lossy.webp", quality=90)
expect("lossy.webp", Image.open("lossy.webp").convert("RGB"), 255)
Image.fromarray(rgba).save("lossless.webp", lossless=True, exact=True)
expect("lossless.webp", rgba, 255)
frames = [Image.fromarray(np.roll(rgb, k, 0)) for k in range(3)]
frames[0].save("animated.webp", save_all=True, append_images=frames[1:], lossless=True)
expect("animated.webp", rgb, 255)
frames[0].save("animated.png", save_all=True, append_images=frames[1:])
expect("animated.png", rgb, 255)

floats = rng.normal(0.5, 0.5, (7, 5)).astype(np.float32)  # beyond [0, 1] on purpose
tifffile.imwrite("float_grey.tif", floats)
expect("float_grey.tif", floats, 1)
tifffile.imwrite("float_rgb.tif", np.stack([floats, -floats, floats**2], 2), photometric="rgb", compression="zlib")
expect("float_rgb.tif", np.stack([floats, -floats, floats**2], 2), 1)
tifffile.imwrite("big_endian16.tif", rgb16, photometric="rgb", byteorder=">", compression="lzw", predictor=True)
expect("big_endian16.tif", rgb16, 65535)
planar = np.ascontiguousarray(rgb16.transpose(2, 0, 1))
tifffile.imwrite("planar16.tif", planar, photometric="rgb", planarconfig="separate")
expect("planar16.tif", rgb16, 65535)
tifffile.imwrite("rgba8.tif", rgba, photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16))
expect("rgba8.tif", rgba, 255)
tifffile.imwrite("white_is_zero.tif", rgb[:, :, 0], photometric="miniswhite", iccprofile=profile)
expect("white_is_zero.tif", 255 - rgb[:, :, 0], 255)
tifffile.imwrite("turned.tif", rgb, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
expect("turned.tif", np.rot90(rgb, -1), 255)

y, x, c = np.mgrid[0:30, 0:20, 0:3]
known = x * 3 + y * 5 + c * 7  # io_kinds.rs knows it
tifffile.imwrite("zstd_rgb.tif", known.astype(np.uint8), photometric="rgb", compression="zstd", predictor=True, rowsperstrip=8)
tifffile.imwrite("zstd_tiles16.tif", (known[:, :, 0] * 256).astype(np.uint16), compression="zstd", tile=(16, 16), byteorder=">")
tifffile.imwrite("zstd_float.tif", (known[:, :, 0] / 8).astype(np.float32), compression="zstd", predictor=True)

save_file(expected, "expected.safetensors")
