"""Makes the files beside this script and what they hold according to PyTorch, Pillow and tifffile.

Needs torch, numpy, pillow, tifffile, imagecodecs and safetensors. Run in this folder.
"""

import collections
import os
import zipfile

import numpy as np
import tifffile
import torch
from PIL import Image, ImageCms, ImageOps
from safetensors.numpy import save_file

rng = np.random.default_rng(1)

# ---- weights -------------------------------------------------------------------------------------

torch.manual_seed(1)
base = torch.randn(4, 6)
tensors = collections.OrderedDict(
    f16=torch.randn(3, 2).half(),
    bf16=torch.randn(5).bfloat16(),
    f32=base,
    f64=torch.randn(2, 2, dtype=torch.float64),
    i64=torch.tensor([[-(2**40), 7]]),
    i32=torch.tensor([-3, 4], dtype=torch.int32),
    u8=torch.tensor([0, 255], dtype=torch.uint8),
    bool=torch.tensor([True, False, True]),
    scalar=torch.tensor(2.5),
    empty=torch.zeros(0, 3),
    transposed=base.t(),
    sliced=base[1:3, 1::2],
    tied=base,
    parameter=torch.nn.Parameter(torch.randn(3)),
)
expected = {f"pt.{name}": t.detach().float().numpy().copy() for name, t in tensors.items() if t.is_floating_point()}
expected["pt64.f64"] = tensors["f64"].numpy()
for name in ["i64", "i32", "u8", "bool"]:
    expected[f"pt.{name}"] = tensors[name].long().numpy()
torch.save(tensors, "zip.pt")
torch.save(tensors, "legacy.pt", _use_new_zipfile_serialization=False)
torch.save(tensors, "protocol4.pt", pickle_protocol=4)

# What a training framework saves: the tensors under "state_dict", other things around them.
model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
optimizer = torch.optim.Adam(model.parameters())
model(torch.randn(4, 3)).sum().backward()
optimizer.step()
lightning = {
    "epoch": 3,
    "pytorch-lightning_version": "1.4.2",
    "state_dict": model.state_dict(),
    "optimizer_states": [optimizer.state_dict()],
    "hyper_parameters": {"lr": 1e-4, "shape": (3, 2)},
}
torch.save(lightning, "lightning.ckpt")
torch.save({"state_dict": model.state_dict()}, "wrapped.pth")
torch.save(model, "module.pt")
expected["lightning.state_dict.0.weight"] = model.state_dict()["0.weight"].numpy().copy()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3)
        self.scale = torch.nn.Parameter(torch.randn(2))

    def forward(self, x):
        return self.conv(x) * self.scale[:, None, None]


net = Net().half()
torch.jit.save(torch.jit.script(net), "script.tmp")
# Packed again: compressed, so that this is tested too, and without debugging records, which hold this file's path.
with zipfile.ZipFile("script.tmp") as stored, zipfile.ZipFile("torchscript.pt", "w", zipfile.ZIP_DEFLATED) as packed:
    for entry in stored.namelist():
        if not entry.endswith(".debug_pkl"):
            packed.writestr(entry, stored.read(entry))
os.remove("script.tmp")
for name, t in net.state_dict().items():
    expected[f"script.{name}"] = t.float().numpy()

# ---- images --------------------------------------------------------------------------------------


def expect(name, array, white):
    """Records h x w x c samples as [c, h, w] in [-1, 1]; a last channel of alpha goes apart, in [0, 1]."""
    array = np.asarray(array)
    array = array.astype(np.float64).reshape(*array.shape[:2], -1) / white
    if array.shape[2] in (2, 4):
        expected[f"alpha.{name}"] = array[:, :, -1].astype(np.float32)
        array = array[:, :, :-1]
    expected[f"image.{name}"] = np.ascontiguousarray((2 * array - 1).transpose(2, 0, 1).astype(np.float32))


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

save_file(expected, "expected.safetensors")
