#!/usr/bin/env python3
"""Train the embedded prior on one NVIDIA GPU in minutes (PyTorch; a CPU serves for trying it out).

    python3 tools/train_prior_gpu.py --network train_prior.py --data photos.tar --out OUT --first 330 --end 525
    python3 tools/quantise.py OUT/prior.safetensors prior.safetensors image_mean=@MODEL

`--network` is the script that defines UNet, Schedule, hybrid_loss and sheet, as for benches/torch_prior.py. photos.tar holds
images, not compressed further. One photograph in 25 is held out, the same as by `adir train`. Crops have 64x64 pixels for
--first seconds and 128x128 up to --end, counted from the start; the learning rate falls with a cosine over both. Another
process compiles the network for both sizes meanwhile; until it is done, steps are taken eagerly and half as large.
image_mean is the metadata that `adir train` writes for the same photographs.
"""
import argparse, importlib.util, io, json, math, os, subprocess, sys, tarfile, time, zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
START = float(os.environ.get("START", time.time()))
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--network", required=True); ap.add_argument("--data", required=True); ap.add_argument("--out", required=True)
ap.add_argument("--config", default='{"channel_mult": [1, 2, 3, 6], "num_res_blocks": 2}')
ap.add_argument("--first", type=float, default=330); ap.add_argument("--end", type=float, default=525)
ap.add_argument("--lr", type=float, default=8e-4); ap.add_argument("--pixels", type=int, default=512 * 64 * 64, help="of a batch")
ap.add_argument("--compile-only", action="store_true", help=argparse.SUPPRESS)
a = ap.parse_args()
spec = importlib.util.spec_from_file_location("network", a.network)
network = importlib.util.module_from_spec(spec); spec.loader.exec_module(network)

dev = "cuda" if torch.cuda.is_available() else "cpu"
torch._dynamo.config.automatic_dynamic_shapes = False
torch.manual_seed(0)
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
config = dict(network.CONFIG, **json.loads(a.config))
net = network.UNet(config).to(dev).to(memory_format=torch.channels_last)
schedule = network.Schedule(dev); compiled = torch.compile(net); out = Path(a.out); out.mkdir(parents=True, exist_ok=True)


def say(*words): print(f"[{time.time() - START:6.1f}]", *words, flush=True)
def batch(side): return max(1, a.pixels // (side * side))
def losses(forward, x0, t, eps):
    with torch.autocast(dev, dtype=torch.bfloat16, enabled=dev == "cuda"):
        return network.hybrid_loss(forward, schedule, x0, t, eps)


if a.compile_only:   # fills the cache that the training reads
    for side in (64, 128):
        x0 = torch.zeros(batch(side), 3, side, side, device=dev)
        sum(losses(compiled, x0, torch.zeros(len(x0), dtype=torch.long, device=dev), torch.randn_like(x0))).backward()
        torch.cuda.synchronize(); (out / f"compiled{side}").touch()
    sys.exit()
if dev == "cuda":
    compiling = subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--compile-only"], env=dict(os.environ, START=str(START)))


class Crops:
    """Random crops, drawn on the device: 60 in 100 at the image's own scale, the rest averaged over 2x2; half of them mirrored."""

    def __init__(self, images):
        side = max(max(i.shape[:2]) for i in images)
        stack = np.zeros((len(images), 3, side, side), np.uint8)
        for k, i in enumerate(images): stack[k, :, : i.shape[0], : i.shape[1]] = i.transpose(2, 0, 1)
        self.stack = torch.from_numpy(stack).to(dev)
        self.sides = [torch.tensor([i.shape[k] for i in images], device=dev) for k in (0, 1)]

    def part(self, count, side):
        i = torch.randint(len(self.stack), (count,), device=dev)
        y, x = ((torch.rand(count, device=dev) * (of[i] - side + 1)).long() for of in self.sides)
        r = torch.arange(side, device=dev)
        crops = self.stack[i[:, None, None], :, (y[:, None] + r)[:, :, None], (x[:, None] + r)[:, None, :]].permute(0, 3, 1, 2)
        return torch.where(torch.rand(count, 1, 1, 1, device=dev) < 0.5, crops.flip(-1), crops).float()

    def draw(self, count, side):
        own = round(0.6 * count)
        half = F.avg_pool2d(self.part(count - own, 2 * side), 2).round()
        return (torch.cat([self.part(own, side), half]) / 127.5 - 1).contiguous()


def timesteps(count):
    """Spread evenly over the noise levels, in random order."""
    t = (torch.arange(count, device=dev) + torch.rand(count, device=dev)) * (network.T / count)
    return t.long().clamp(max=network.T - 1)[torch.randperm(count, device=dev)]


with tarfile.open(a.data) as tar: files = [(m.name, tar.extractfile(m).read()) for m in tar.getmembers() if m.isfile()]
with ThreadPoolExecutor(16) as pool: images = list(pool.map(lambda f: (network.photo(f[0]), np.array(Image.open(io.BytesIO(f[1])).convert("RGB"))), files))
held = set(sorted({photo for photo, _ in images}, key=lambda photo: zlib.crc32(photo.encode()))[::25])
crops, held_out = (Crops([i for photo, i in images if (photo in held) == is_held]) for is_held in (False, True))
say(f"{len(images)} images, {sum(p.numel() for p in net.parameters())} parameters, {dev}")
names, params = zip(*net.named_parameters())
average = [p.detach().clone() for p in params]
optimiser = torch.optim.AdamW(params, lr=a.lr, weight_decay=1e-3, betas=(0.9, 0.99), fused=dev == "cuda")


@torch.no_grad()
def measure(side):
    """l_simple of the averaged weights, which the network keeps."""
    for p, mean in zip(params, average): p.copy_(mean)
    torch.manual_seed(1); values = []
    for _ in range(8):
        x0 = held_out.draw(batch(side), side); values.append(losses(net, x0, timesteps(len(x0)), torch.randn_like(x0))[0].item())
    return float(np.mean(values))


step, seen, noted, sum_of, began = 0, 0, time.time(), [], time.time() - START
while (now := time.time() - START) < a.end:
    side = 64 if now < a.first else 128
    is_compiled = dev == "cuda" and ((out / f"compiled{side}").exists() or compiling.poll() is not None)
    rate = a.lr * min(1.0, (step + 1) / 400) * (0.5 * (1 + math.cos(math.pi * (now - began) / (a.end - began))) * 0.99 + 0.01)
    for group in optimiser.param_groups: group["lr"] = rate
    x0 = crops.draw(batch(side) if is_compiled or dev == "cpu" else batch(side) // 2, side)
    simple, bound = losses(compiled if is_compiled else net, x0, timesteps(len(x0)), torch.randn_like(x0))
    optimiser.zero_grad(set_to_none=True); (simple + bound).backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0); optimiser.step(); step += 1; seen += len(x0) * side * side
    decay = min(0.9993 if side == 64 else 0.999, (1 + step) / (10 + step))
    with torch.no_grad(): torch._foreach_lerp_(average, [p.detach() for p in params], 1 - decay)
    sum_of.append(simple.detach())
    if dev == "cuda" and step % 4 == 0: torch.cuda.synchronize()   # the clock decides
    if time.time() - noted > 15:
        loss = torch.stack(sum_of).mean().item(); sum_of, noted = [], time.time()
        say(f"side {side}, step {step}, l_simple {loss:.5f}, rate {rate:.2e}, {seen / 4096:.0f} crops' worth of 64x64")
        if not math.isfinite(loss): sys.exit("the loss is not finite")
measured = {side: measure(side) for side in (64, 128)}
say(f"l_simple of held-out crops: {measured}")
from safetensors.torch import save_file
save_file({n: p.detach().half().cpu().contiguous() for n, p in zip(names, params)}, out / "prior.safetensors",
          metadata={"config": json.dumps(config), "steps": str(step), "held_out_simple": f"{measured[128]:.5f}"})
network.sheet(net, dev, out / "samples.png", 16 if dev == "cuda" else 4, 128 if dev == "cuda" else 64)
