"""A program run to its end, for the benchmarks here."""
import os, subprocess, sys, time


def run(command, threads):
    """Seconds and peak gigabytes of `command`, with so many threads for rayon; its failure ends the benchmark."""
    start = time.time()
    child = subprocess.Popen([str(part) for part in command], env=dict(os.environ, RAYON_NUM_THREADS=str(threads)), stderr=subprocess.PIPE)
    complaint = child.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(child.pid, 0)
    if status: sys.exit(f"{command[0]} failed:\n{complaint}")
    return time.time() - start, usage.ru_maxrss * 1024 / 1e9
