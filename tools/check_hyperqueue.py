#!/usr/bin/env python3
"""Does a folder survive HyperQueue? Restores a folder by two workers, kills one of them and then all, goes on, and compares
the results with those of a single run.

    pip install hyperqueue
    tools/check_hyperqueue.py [--adir target/release/adir] [--folder DIR] [--steps 2] [--tasks 4]

It uses HyperQueue's Python package, whose server and workers are threads of one process. SIGKILL to the running task of a
worker stands for the loss of that worker; then SIGKILL meets the process, and server and workers are lost. Without the package
it says so and does nothing.
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SERVER = "server: "
ROOT = Path(__file__).resolve().parent.parent


def cluster(folder):
    """A server with two workers of one core, until this process is killed."""
    from hyperqueue import LocalCluster
    from hyperqueue.cluster import WorkerConfig

    with LocalCluster(str(folder)) as local:
        for _ in range(2):
            local.start_worker(WorkerConfig(cores=1))
        print(SERVER + local.cluster.server_dir, flush=True)
        while True:
            time.sleep(60)


def start_cluster(folder):
    command = [sys.executable, __file__, "--cluster", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        # HyperQueue prints a table, too.
        if line.startswith(SERVER):
            return process, line.removeprefix(SERVER).strip()
    raise SystemExit("the server of HyperQueue did not start")


def submit(server, command, tasks):
    """The recipe: one task per shard, told by the number of the task."""
    from hyperqueue import Client, Job

    job = Job(max_fails=None)
    for _ in range(tasks):
        job.program(command + ["--shard", f"auto/{tasks}"], stdout=None, stderr=None)
    client = Client(server)
    return client, client.submit(job)


def running(output):
    """The processes that write to `output`, by number."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"restore" in words and str(output).encode() in words:
                found.append(int(entry.name))
    return found


def images(folder):
    found = [path for path in folder.rglob("*.webp")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def wait_for(count, output):
    while len(list(output.rglob("*.webp.json"))) < count:
        time.sleep(0.02)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--adir", type=Path, default=ROOT / "target/release/adir")
    arguments.add_argument("--folder", type=Path, help="folder to work in, which must be empty [default: a temporary one]")
    arguments.add_argument("--steps", default="2")
    arguments.add_argument("--tasks", type=int, default=4)
    arguments.add_argument("--files", type=int, default=12)
    arguments.add_argument("--cluster", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.cluster:
        return cluster(given.cluster)
    try:
        version("hyperqueue")
    except PackageNotFoundError:
        print("skipped: the Python package hyperqueue is not installed")
        return 0
    folder = given.folder or Path(tempfile.mkdtemp(prefix="adir-hyperqueue-"))
    adir = str(given.adir.resolve())
    scans, single, output = folder / "scans", folder / "single", folder / "output"
    for k, photo in enumerate(sorted((ROOT / "examples/gallery").glob("*.webp"))[: given.files]):
        observation = scans / str(k % 2) / photo.name
        command = [adir, "degrade", str(photo), "-o", str(observation), "--task", "sr4", "-q"]
        subprocess.run(command, check=True)
    common = ["--task", "sr4", "--steps", given.steps, "-q"]
    started = time.time()
    subprocess.run([adir, "restore", str(scans), "-o", str(single)] + common, check=True)
    expected = images(single)
    print(f"hyperqueue {version('hyperqueue')}; {len(expected)} files, single run: {time.time() - started:.1f} s")
    command = [adir, "restore", str(scans), "-o", str(output)] + common
    started = time.time()

    process, server = start_cluster(folder / "hq1")
    client, job = submit(server, command, given.tasks)
    wait_for(len(expected) // 4, output)
    tasks = running(output)
    os.kill(tasks[0], signal.SIGKILL)
    print(f"killed one of {len(tasks)} running tasks after {len(images(output))} files")
    wait_for(len(expected) // 2, output)
    process.kill()
    process.wait()
    print(f"killed server and workers after {len(images(output))} files")
    time.sleep(1)
    print(f"tasks that outlive their worker: {len(running(output))}")

    process, server = start_cluster(folder / "hq2")
    client, job = submit(server, command, given.tasks)
    client.wait_for_jobs([job], raise_on_error=True)
    print(f"all tasks done: {time.time() - started:.1f} s")
    process.kill()
    process.wait()
    merged = subprocess.run([adir, "merge", str(output)]).returncode
    found = images(output)
    left = [str(path.relative_to(output)) for path in output.rglob(".adir-*")]
    same = found == expected
    print(f"adir merge: exit code {merged}; {len(found)} files, {'all equal' if same else 'NOT EQUAL'} to the single run's")
    print(f"scratch files left by kills: {len(left)}")
    return 0 if same and merged == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
