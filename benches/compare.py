"""Times our kernels and PyTorch in turns on the same threads and prints ratios (below 1: ours is faster).

    python compare.py [--threads N] [--rounds N] [--mode eager|channels-last|bf16|compile] [part of a case's name ...]
    python compare.py --network train_prior.py [--threads N] [--rounds N] [part of a case's name ...]

The second form times whole networks; the script named defines PyTorch's.

Needs cargo and PyTorch. A case's time is the median over rounds of the medians within a round. GFLOP/s count the
multiplications and additions of the direct sum, so Winograd's algorithm can exceed the peak, which is the best
product of two 2048 x 2048 matrices PyTorch manages here.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(command, env):
    """{case: median milliseconds} of one program."""
    out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    return {line.split()[0]: float(line.split()[1]) for line in out.splitlines() if len(line.split()) == 3}


def built(bench):
    """The benchmark's executable."""
    command = ["cargo", "bench", "--workspace", "--bench", bench, "--no-run", "--message-format=json"]
    out = subprocess.run(command, cwd=HERE.parent, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = [m["executable"] for m in map(json.loads, out.splitlines()) if m.get("target", {}).get("name") == bench]
    return next(path for path in found if path)


def flops(name):
    """Operations of a case's direct sum, or None."""
    conv = re.match(r"conv(\d)x\ds(\d)-\[(\d+),(\d+),(\d+),(\d+)\]-(\d+)-(\w+)", name)
    if conv:
        k, s, n, c, h, w, out = map(int, conv.groups()[:7])
        return 2 * n * (h // s) * (w // s) * c * out * k * k * (3 if conv[8] == "gradients" else 1)
    attention = re.match(r"attention-\[(\d+),(\d+),(\d+)\]-\d+-(\w+)", name)
    if attention:
        n, width, tokens = map(int, attention.groups()[:3])
        return 2 * n * width // 3 * tokens * tokens * (2 if attention[4] == "forward" else 7)
    return None


def peak(threads):
    """GFLOP/s of a large single-precision product."""
    import torch

    torch.set_num_threads(threads)
    a = torch.rand(2048, 2048)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times) / 1e9


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mode", default="eager")
    parser.add_argument("--network")
    parser.add_argument("parts", nargs="*")
    args = parser.parse_args()
    executable = built("unet" if args.network else "ops")
    env = dict(os.environ, RAYON_NUM_THREADS=str(args.threads))
    torch = [sys.executable, str(HERE / ("torch_unet.py" if args.network else "torch_reference.py")), "--threads", str(args.threads)]
    torch += ["--network", args.network] if args.network else ["--mode", args.mode]
    ours, theirs = [], []
    for _ in range(args.rounds):
        ours.append(run([executable, *args.parts], env))
        theirs.append(run([*torch, *args.parts], env))
    best = peak(args.threads)
    print(f"peak {best:.0f} GFLOP/s; milliseconds, PyTorch {args.mode}, {args.threads} threads, {args.rounds} rounds")
    print(f"{'case':44} {'ours':>8} {'PyTorch':>8} {'ratio':>6} {'GFLOP/s':>8} {'of peak':>8}")
    for name in ours[0]:
        mine = statistics.median(round[name] for round in ours)
        # Of PyTorch's two ways to attention, the faster.
        ways = [name, re.sub(r"-(forward|gradients)$", r"-plain-\1", name)]
        other = min(statistics.median(round[way] for round in theirs) for way in ways if way in theirs[0])
        rate = flops(name) / mine / 1e6 if flops(name) else None
        tail = f"{rate:8.0f} {rate / best:8.2f}" if rate else ""
        print(f"{name:44} {mine:8.2f} {other:8.2f} {mine / other:6.2f} {tail}")


if __name__ == "__main__":
    main()
