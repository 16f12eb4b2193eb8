#!/usr/bin/env python3
"""Restores a folder on the machines of a Ray cluster, as `adir restore FOLDER` does it on one.

    pip install "ray[data]" ./crates/adir-py                    # on every machine
    ray start --head                                            # on one; `ray start --address=...` on the others
    examples/ray_restore.py SCANS -o OUT --task sr4 [steps=10 aim=detailed ...]

The folder is cut into parts, as by `--shard I/N`. Ray Data hands them to actors, which load the prior once and keep it. All
machines must see SCANS, OUT and the cache under the same paths. A part whose worker is lost is given to another, and goes on
with its next file. The same command goes on after any interruption: what is finished is told by the records beside the results,
and is not restored again. `adir restore SCANS -o OUT` takes these results for its own, and the other way round.

Settings are those of `help(adir.Engine.plan)`, with values in JSON or as plain text.
"""

import argparse
import json
import os
import socket
import sys

import adir
import ray


class Restorer:
    """An actor. It keeps its engine from part to part."""

    def __init__(self, engine, folder, settings):
        self.engine, self.folder, self.settings = adir.Engine(**engine), folder, settings

    def __call__(self, batch):
        rows = [self.restore(str(part)) for part in batch["item"]]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def restore(self, part):
        row = {"part": part, "restored": 0, "finished": 0, "failed": "[]", "error": ""}
        row["where"] = f"{socket.gethostname()}, process {os.getpid()}"
        try:
            done = self.engine.restore_folder(*self.folder, shard=part, **self.settings)
            row.update(restored=done.restored, finished=done.finished, failed=json.dumps(done.failed))
        except (adir.AdirError, OSError) as error:
            # The other parts go on.
            row["error"] = str(error)
        return row


def setting(text):
    name, given, value = text.partition("=")
    if not given:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def read_arguments():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("scans", help="folder of the observations")
    arguments.add_argument("settings", nargs="*", type=setting, metavar="NAME=VALUE", help="settings of the restoration")
    arguments.add_argument("-o", "--output", required=True, help="folder of the results")
    arguments.add_argument("--task", required=True, help="sr2 to sr16, deblur, inpaint, denoise or colourise")
    arguments.add_argument("--address", help="the cluster's [default: the one that this machine belongs to, or a new one here]")
    arguments.add_argument("--cpus", type=int, default=1, help="cores for each actor [default: 1]")
    arguments.add_argument("--actors", type=int, help="most actors [default: as the cluster has cores for]")
    arguments.add_argument("--parts", type=int, help="parts of the folder [default: 8 for each actor]")
    arguments.add_argument("--memory", type=float, metavar="GB", help="memory for each actor; images that need more are refused")
    arguments.add_argument("--cache", help="folder that all machines share, for adapters and the states of interrupted samplings")
    arguments.add_argument("--model", help="weights in place of the module's own")
    arguments.add_argument("--overwrite", action="store_true", help="replace results of other settings")
    return arguments.parse_intermixed_args()


def parts_of(given, files):
    actors = given.actors or max(1, int(ray.cluster_resources().get("CPU", 1)) // given.cpus)
    of = max(1, min(given.parts or 8 * actors, files))
    return actors, [f"{part}/{of}" for part in range(1, of + 1)]


def restore(given, engine, folder, settings, files):
    """What became of the parts, each as soon as it is done."""
    actors, parts = parts_of(given, files)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # By default Ray starts actors that are lost again, and gives them their parts again.
    pool = ray.data.ActorPoolStrategy(min_size=1, initial_size=actors, max_size=actors, max_tasks_in_flight_per_actor=1)
    made = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
        Restorer,
        batch_size=1,
        compute=pool,
        num_cpus=given.cpus,
        memory=engine["memory"],
        fn_constructor_args=(engine, folder, settings),
    )
    yield from made.iter_rows()


def main():
    given = read_arguments()
    # The machines have working folders of their own.
    folder = (os.path.abspath(given.scans), os.path.abspath(given.output), given.task)
    engine = {name: path and os.path.abspath(path) for name, path in (("cache", given.cache), ("model", given.model))}
    engine["memory"] = given.memory and int(given.memory * 1e9)
    settings = {**dict(given.settings), "overwrite": given.overwrite}
    try:
        plan = adir.Engine(**engine).plan_folder(*folder, **settings)
    except TypeError as error:
        sys.exit(f"error: {error}")
    for warning in plan.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{plan.files} images: {plan.finished} finished, {len(plan.to_do)} to restore", flush=True)
    if plan.to_do:
        threads = {"env_vars": {"RAYON_NUM_THREADS": str(given.cpus)}}
        ray.init(given.address, runtime_env=threads, log_to_driver=False)
        for row in restore(given, engine, folder, settings, plan.files):
            failed = json.loads(row["failed"])
            what = row["error"] or f"{row['restored']} restored, {row['finished']} finished before, {len(failed)} failed"
            print(f"part {row['part']}: {what} ({row['where']})", flush=True)
        merged = adir.merge(given.output)
        for file, error in merged.failed:
            print(f"failed: {file}: {error}", file=sys.stderr)
        for file, part in merged.missing:
            print(f"missing: {file} (part {part})", file=sys.stderr)
        for part, files in merged.absent:
            print(f"missing: part {part} with {files} files", file=sys.stderr)
        if not merged.ok:
            print("the same command goes on with what is missing", file=sys.stderr)
            return 1
    print(f"{given.output}: {len(plan.to_do)} restored, {plan.finished} finished before")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except adir.AdirError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped: the same command goes on", file=sys.stderr)
        sys.exit(130)
