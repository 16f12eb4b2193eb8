#!/usr/bin/env python3
"""PyTorch running the embedded prior's network as often as a restoration does, for comparison of time and memory.

  python3 benches/torch_prior.py --network train_prior.py --weights crates/adir-assets/assets/prior.safetensors --side 256 --steps 50

`--network` is the training script that defines `UNet` (shared/tools/train_prior.py). Compare with
`/usr/bin/time -v target/release/adir restore examples/cat_small.png -o cat.png --task sr4`.
"""
import argparse, importlib.util, json, resource, time
import torch
from safetensors import safe_open
from weights import weights

ap = argparse.ArgumentParser()
ap.add_argument("--network", required=True); ap.add_argument("--weights", required=True)
ap.add_argument("--side", type=int, default=256); ap.add_argument("--steps", type=int, default=50)
a = ap.parse_args()
spec = importlib.util.spec_from_file_location("network", a.network)
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
with safe_open(a.weights, "pt") as f:
    config = json.loads(f.metadata()["config"])
    net = module.UNet(dict(config, channel_mult=[int(m) for m in config["channel_mult"]]))
    net.load_state_dict(weights(f))
torch.set_num_threads(2)
x = torch.randn(1, 3, a.side, a.side)
times = []
with torch.no_grad():
    for i in range(a.steps):
        start = time.time(); net(x, torch.tensor([999 - i])); times.append(time.time() - start)
print(f"torch {torch.__version__}: {sum(times):.2f} s in {a.steps} passes, median {sorted(times)[len(times) // 2] * 1000:.0f} ms, "
      f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
