#!/usr/bin/env python3
"""Times diffusers' U-Net and autoencoder of a Stable Diffusion model, as `crates/adir/examples/latent_step.rs` times ours.

    adir models random x4-upscaler -o FOLDER
    python3 benches/torch_latent.py FOLDER SIDE [unet|decode] [THREADS]
    cargo run --release -p adir --example latent_step -- FOLDER SIDE [unet|decode]

SIDE is that of the latents. Prints the seconds of each of three passes, of a decoding, and the peak of memory. Needs torch
and diffusers.
"""

import resource
import sys
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel


def peak():
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss} kB"


def timed(name, run):
    started = time.perf_counter()
    run()
    print(f"{name} {time.perf_counter() - started:.3f} s")


folder, side = sys.argv[1], int(sys.argv[2])
what = sys.argv[3] if len(sys.argv) > 3 else "both"
torch.set_num_threads(int(sys.argv[4]) if len(sys.argv) > 4 else 2)
noise = torch.Generator().manual_seed(0)

with torch.no_grad():
    if what != "decode":
        unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()
        config = unet.config
        x = torch.randn(1, config.in_channels, side, side, generator=noise)
        text = torch.randn(1, 77, config.cross_attention_dim, generator=noise)
        label = torch.tensor([20]) if config.num_class_embeds else None
        for _ in range(3):
            timed("unet", lambda: unet(x, 500, text, class_labels=label))
        print("unet", peak())
        del unet
    if what != "unet":
        vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").eval()
        latents = torch.randn(1, vae.config.latent_channels, side, side, generator=noise)
        timed("decode", lambda: vae.decode(latents))
        print("decode", peak())
