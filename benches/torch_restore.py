#!/usr/bin/env python3
"""One restoration as `adir restore --task sr4 --gallery FOLDER --adapt gallery --full` computes it, in PyTorch (eager, f32).

  python3 benches/torch_restore.py y.png -o x.png --gallery FOLDER --network train_prior.py --prior prior.safetensors
      [--iterations 50] [--steps 20] [--threads 2]

All weights are adapted to crops of the gallery (128x128, two a step, Adam, the preset `fast` with `--full`), then 20 steps of DDIM (eta 1)
with the projection of Eq. 17's few-step form. Left out: retrieval (every image of the gallery is used), the mean colours
that the prior's metadata tells, and the agreement that `adir` reports. `--network` is the training script that defines `UNet`.
"""
import argparse, importlib.util, json
from pathlib import Path
import numpy as np, torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from weights import weights

ap = argparse.ArgumentParser()
ap.add_argument("observation"); ap.add_argument("-o", "--output", required=True); ap.add_argument("--gallery", required=True)
ap.add_argument("--network", required=True); ap.add_argument("--prior", required=True)
ap.add_argument("--iterations", type=int, default=50); ap.add_argument("--steps", type=int, default=20)
ap.add_argument("--threads", type=int, default=2)
a = ap.parse_args()
torch.set_num_threads(a.threads); torch.manual_seed(0)
spec = importlib.util.spec_from_file_location("network", a.network)
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
with safe_open(a.prior, "pt") as file:
    config = json.loads(file.metadata()["config"])
    config = dict(module.CONFIG, **{k: config[k] for k in ("model_channels", "num_res_blocks", "attention_resolutions", "num_head_channels")},
                  channel_mult=[int(m) for m in config["channel_mult"]])
    net = module.UNet(config)
    net.load_state_dict(weights(file))
alpha_bar = torch.tensor(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))


def read(path):
    return torch.tensor(np.asarray(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float() / 127.5 - 1


# Adaptation (Eq. 6).
CROP, BATCH, RATE = 128, 2, 1e-4
gallery = [read(path) for path in sorted(Path(a.gallery).iterdir()) if path.suffix in (".png", ".webp", ".jpg")]
optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
triangle = lambda k: min(1, (k + 1) / max(1, a.iterations / 10)) * (a.iterations - k) / max(1, a.iterations)
rates = torch.optim.lr_scheduler.LambdaLR(optimizer, triangle)
for step in range(a.iterations):
    crops = []
    for _ in range(BATCH):
        image = gallery[torch.randint(len(gallery), ())]
        top, left = (int(torch.randint(side - CROP + 1, ())) for side in image.shape[2:])
        crop = image[:, :, top:top + CROP, left:left + CROP]
        crops.append(crop.flip(3) if torch.rand(()) < 0.5 else crop)
    x0 = torch.cat(crops)
    t = ((torch.arange(BATCH) + torch.rand(())) / BATCH * 1000).long()
    eps, level = torch.randn_like(x0), alpha_bar[t].float()[:, None, None, None]
    loss = F.mse_loss(net(level.sqrt() * x0 + (1 - level).sqrt() * eps, t)[:, :3], eps)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step(); rates.step()

# Sampling.
y = read(a.observation)
high, wide = (4 * side for side in y.shape[2:])
down = lambda n: F.interpolate(torch.eye(n)[None, None], size=(n // 4, n), mode="bicubic", antialias=True)[0, 0]
rows, columns = down(high), down(wide)
A = lambda x: rows @ x @ columns.T
norm = float(torch.linalg.matrix_norm(rows, 2) * torch.linalg.matrix_norm(columns, 2)) ** 2
adjoint = lambda r: rows.T @ r @ columns / norm
# guided-diffusion's respacing: both ends and what lies evenly between.
kept = [round(i * 999 / max(1, a.steps - 1)) for i in range(a.steps)]
x = torch.randn(1, 3, high, wide)
with torch.no_grad():
    for i in reversed(range(a.steps)):
        now, then = float(alpha_bar[kept[i]]), float(alpha_bar[kept[i - 1]]) if i else 1.0
        eps = net(x, torch.tensor([kept[i]]))[:, :3]
        x0 = ((x - (1 - now) ** 0.5 * eps) / now ** 0.5).clamp(-1, 1)
        x0 = x0 - adjoint(A(x0) - y)
        eps = (x - now ** 0.5 * x0) / (1 - now) ** 0.5
        variance = (1 - then) / (1 - now) * (1 - now / then)
        x = then ** 0.5 * x0 + max(0.0, 1 - then - variance) ** 0.5 * eps + variance ** 0.5 * torch.randn_like(x)
picture = ((x[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
Image.fromarray(picture).save(a.output)
