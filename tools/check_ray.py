#!/usr/bin/env python3
"""Does a folder survive Ray? Restores a folder by `examples/ray_restore.py` on a local cluster of two nodes of one core, kills
the program, a worker, and a node, goes on, and compares the results with those of a single run of `adir restore`.

    pip install "ray[data]" pillow ./crates/adir-py
    tools/check_ray.py [--adir target/release/adir] [--folder DIR] [--files 200] [--steps 2] [--parts 20]

Exit code 1: a result is missing or differs, or a finished file was written again. Without Ray or the module it says so and does
nothing.
"""

import argparse
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIDE, TIMES = 96, 4
#: Seconds without a new result after which it is given up.
PATIENCE = 300


def observe(folder, files):
    """Crops of the pictures in examples/, scaled down."""
    from PIL import Image

    photos = [ROOT / "examples/cat.png", *sorted((ROOT / "examples/gallery").glob("*.webp"))]
    for k in range(files):
        photo = Image.open(photos[k % len(photos)]).convert("RGB")
        turn = k // len(photos)
        x, y = 37 * turn % (photo.width - SIDE), 23 * turn % (photo.height - SIDE)
        crop = photo.crop((x, y, x + SIDE, y + SIDE)).resize((SIDE // TIMES, SIDE // TIMES), Image.Resampling.BICUBIC)
        path = folder / f"{k % 7}" / f"{k:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path)


def by_program(adir, scans, output, steps):
    return [adir, "restore", str(scans), "-o", str(output), "--task", f"sr{TIMES}", "--steps", steps, "--no-cache"]


def images(folder):
    found = folder.rglob("*.png")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def times(folder):
    return {path: path.stat().st_mtime_ns for name in ("*.png", "*.png.json") for path in folder.rglob(name)}


def workers(output):
    """The processes that write a part's manifest in `output`, by number."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                links = [os.readlink(link) for link in (entry / "fd").iterdir()]
            except OSError:
                continue
            if any(link.startswith(f"{output}/adir-manifest-") for link in links):
                found.append(int(entry.name))
    return found


def finished(output):
    return len(list(output.rglob("*.png.json")))


def wait_for(count, output, process):
    last, since = -1, time.time()
    while (now := finished(output)) < count:
        if process.poll() is not None:
            raise SystemExit(f"examples/ray_restore.py ended with {process.returncode} after {now} files")
        if now != last:
            last, since = now, time.time()
        if time.time() - since > PATIENCE:
            raise SystemExit(f"no new result for {PATIENCE} s after {now} files")
        time.sleep(0.02)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--adir", type=Path, default=ROOT / "target/release/adir")
    arguments.add_argument("--folder", type=Path, help="folder to work in, which must be empty [default: a temporary one]")
    arguments.add_argument("--files", type=int, default=200)
    arguments.add_argument("--steps", default="2")
    arguments.add_argument("--parts", type=int, default=20)
    given = arguments.parse_args()
    for module in ("ray", "ray.data", "adir", "PIL"):
        try:
            missing = importlib.util.find_spec(module) is None
        except ModuleNotFoundError:
            missing = True
        if missing:
            print(f"skipped: Python has no {module}")
            return 0
    import ray
    from ray.cluster_utils import Cluster

    folder = (given.folder or Path(tempfile.mkdtemp(prefix="adir-ray-"))).resolve()
    adir, files = str(given.adir.resolve()), given.files
    scans, single, output = folder / "scans", folder / "single", folder / "output"
    observe(scans, files)
    started = time.time()
    subprocess.run(by_program(adir, scans, single, given.steps), check=True)
    expected = images(single)
    print(f"ray {ray.__version__}; {len(expected)} images of {files}, single run of the program: {time.time() - started:.1f} s")

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    command = [sys.executable, str(ROOT / "examples/ray_restore.py"), str(scans), "-o", str(output), "--task", f"sr{TIMES}"]
    command += ["--address", cluster.address, "--parts", str(given.parts), f"steps={given.steps}"]
    started = time.time()

    def begin():
        # What Ray says of lost workers and nodes is kept beside the results.
        with (folder / "ray.log").open("a") as log:
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)

    try:
        process = begin()
        wait_for(files // 4, output, process)
        process.kill()
        process.communicate()
        print(f"killed examples/ray_restore.py after {finished(output)} files", flush=True)
        while workers(output):
            time.sleep(0.1)
        before = times(output)
        process = begin()
        wait_for(files // 2, output, process)
        while not (found := workers(output)):
            time.sleep(0.005)
        os.kill(found[0], signal.SIGKILL)
        print(f"killed a worker (SIGKILL) after {finished(output)} files", flush=True)
        wait_for(files * 3 // 4, output, process)
        cluster.remove_node(second, allow_graceful=False)
        print(f"killed one of 2 nodes after {finished(output)} files", flush=True)
        wait_for(files, output, process)
        said, _ = process.communicate(timeout=PATIENCE)
        # Ray has its say in between.
        lines = said.splitlines()
        parts = [line for line in lines if line.startswith("part ")]
        for line in [lines[0], *parts, lines[-1]]:
            print(f"    {line.replace(str(folder), '...')}")
        made_by = {line.rsplit(" ", 1)[1] for line in parts}
        print(f"all done: {time.time() - started:.1f} s, {len(parts)} parts by {len(made_by)} processes")
        ended = [process.returncode]
        made = times(output)
        # Records are written last; a picture without one was begun only.
        kept = all(made[path] == at for path, at in before.items() if path.suffix == ".json")
        again = subprocess.run(command, capture_output=True, text=True)
        print(f"once more: {again.stdout.strip().splitlines()[-1].replace(str(folder), '...')}")
        ended.append(again.returncode)
        kept = kept and times(output) == made
    finally:
        cluster.shutdown()
    merged = subprocess.run([adir, "merge", str(output), "-q"]).returncode
    other = subprocess.run(by_program(adir, scans, output, given.steps), capture_output=True, text=True)
    print(f"adir restore of the same folder: {other.stderr.strip().splitlines()[-1].replace(str(folder), '...')}")
    kept = kept and times(output) == made
    found = images(output)
    same = found == expected and len(found) == files
    left = [str(path.relative_to(output)) for path in output.rglob(".adir-*")]
    print(f"exit codes: {ended}, adir merge {merged}, adir restore {other.returncode}; scratch files left by kills: {len(left)}")
    print(f"{len(found)} images, {'all equal' if same else 'NOT EQUAL'} to the single run's")
    print(f"finished files {'left alone' if kept else 'WRITTEN AGAIN'}")
    return 0 if same and kept and merged == 0 and other.returncode == 0 and ended == [0, 0] else 1


if __name__ == "__main__":
    sys.exit(main())
