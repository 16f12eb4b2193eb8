#!/usr/bin/env python3
"""Prints the licences of the crates that are compiled into the program, with their texts: what a released program must be
accompanied by.

    tools/third_party_licences.py [--target x86_64-unknown-linux-gnu]

Sources are those that cargo has fetched for the build. Texts that several crates share are printed once.
"""

import argparse
import json
import subprocess
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE", "COPYRIGHT")


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--target", help="as for cargo [default: this machine]")
    given = arguments.parse_args()
    where = ["--target", given.target] if given.target else []
    tree = cargo("tree", "--locked", "--package", "adir-cli", "--edges", "normal", "--prefix", "none", "--format", "{p}", *where)
    used = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    known = json.loads(cargo("metadata", "--locked", "--format-version", "1", *(["--filter-platform", given.target] if given.target else [])))
    texts, without = defaultdict(list), []
    print("Crates compiled into the program, by their licences:\n")
    for crate in sorted(known["packages"], key=lambda crate: (crate["name"], crate["version"])):
        # Those of this repository have no source.
        if (crate["name"], "v" + crate["version"]) not in used or crate["source"] is None:
            continue
        label = f"{crate['name']} {crate['version']}"
        print(f"{label}: {crate['license'] or 'see below'}" + (f" ({crate['repository']})" if crate["repository"] else ""))
        folder = Path(crate["manifest_path"]).parent
        files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name.upper().startswith(NAMES)]
        for file in files:
            texts[file.read_text(encoding="utf-8", errors="replace").strip()].append(label)
        if not files:
            without.append(label)
    if without:
        print(f"\nWithout a text of their own: {', '.join(without)}.")
    print("\nRust's standard library: MIT OR Apache-2.0 (https://github.com/rust-lang/rust)")
    for text, labels in sorted(texts.items(), key=lambda item: item[1]):
        print(f"\n{'=' * 100}\n{', '.join(labels)}\n{'=' * 100}\n\n{text}")


if __name__ == "__main__":
    main()
