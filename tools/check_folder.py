#!/usr/bin/env python3
"""What does a folder cost, and does it survive kills? Makes small observations of photographs, restores them in one run, and
again in a run that is killed twice (SIGKILL) and finished by the same command; compares the bytes.

    tools/check_folder.py PHOTOS [--adir target/release/adir] [--count 200] [--folder DIR] [--options "--task sr2"]

Prints the time of the undisturbed run against the sum of the sampling times that its records hold, and a transcript of the
other.
"""

import argparse
import hashlib
import json
import random
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--adir", type=Path, default=ROOT / "target/release/adir")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--options", default="--task sr2", help="what is done to each")
    args = parser.parse_args()
    args.folder = args.folder or Path(tempfile.mkdtemp(prefix="adir-folder-"))
    args.folder.mkdir(parents=True, exist_ok=True)
    adir = args.adir.resolve()

    def observe():
        """Photographs made five times as small, with noise."""
        for path in sorted(args.photos.glob("photo_*"))[:: max(1, len(list(args.photos.glob("photo_*"))) // args.count)]:
            if len(list((args.folder / "scans").glob("*.png"))) == args.count:
                break
            made = args.folder / "scans" / f"{path.stem}.png"
            command = [adir, "degrade", path, "-o", made, "--task", "sr5", "--sigma", "10", "--overwrite", "-q"]
            subprocess.run(command, check=True)

    def command(output, *more):
        options = [*args.options.split(), "--cache", args.folder / "cache", *more]
        return [adir, "restore", args.folder / "scans", "-o", args.folder / output, *options]

    def images(output):
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (args.folder / output).glob("*.png")}

    observe()
    started = time.time()
    with open(args.folder / "events.jsonl", "w") as log:
        subprocess.run([*command("whole"), "--log-format", "json"], check=True, stderr=log)
    whole = time.time() - started
    records = [json.loads(path.read_text()) for path in (args.folder / "whole").glob("*.png.json")]
    sampling = sum(record["seconds"]["sample"] for record in records)
    events = [json.loads(line) for line in open(args.folder / "events.jsonl")]
    done = sum(event["event"] == "file_done" for event in events)
    print(f"{done} files in {whole:.1f} s; sampling {sampling:.1f} s; ratio {whole / sampling:.3f}", flush=True)

    chance = random.Random(1)
    for kill in (True, True, False):
        print(f"$ adir restore scans -o killed {args.options} --checkpoint-seconds 0", flush=True)
        started = time.time()
        process = subprocess.Popen(command("killed", "--checkpoint-seconds", "0"), stderr=subprocess.PIPE, text=True)
        if kill:
            time.sleep(whole * (0.2 + 0.15 * chance.random()))
            process.kill()
        said = [line for line in process.stderr.read().splitlines() if ": restored" not in line]
        kept = [line for line in said if "agrees with" not in line and not line.startswith(("PASS", "WARN"))]
        print("\n".join(kept).replace(f"{args.folder}/", ""))
        code, seconds, there = process.wait(), time.time() - started, len(images("killed"))
        print(f"[{'SIGKILL' if kill else f'exit code {code}'} after {seconds:.1f} s: {there} results]", flush=True)
    same = sum(images("killed").get(name) == found for name, found in images("whole").items())
    scratch = len(list((args.folder / "killed").glob("*.part")))
    states = len(list((args.folder / "cache/sampling").glob("*")))
    print(f"{same} of {len(images('whole'))} results equal; scratch files left {scratch}, states left {states}")


if __name__ == "__main__":
    main()
