#!/usr/bin/env bash
# Makes the files of a release: tools/release.sh [--dirty] [FOLDER]
#
# Builds the program for this machine's glibc, and a static one for musl where rustc has that target (`rustup target add`) and a C
# compiler for it is installed (Debian: musl-tools). Writes adir-VERSION-TARGET.tar.gz of each, with licences, completions and
# manual pages, and SHA256SUMS, to FOLDER (default target/release-files). The glibc program runs on systems with the glibc that it
# names, or a newer one: build on the oldest that is to be served.
#
# Needs Linux, cargo, a C compiler, binutils, python3 and tar. Refuses a working tree with changes unless --dirty is given.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "error: $*" >&2
    exit 1
}

dirty=
if [ "${1:-}" = --dirty ]; then
    dirty=1
    shift
fi
[ $# -le 1 ] || fail "expected tools/release.sh [--dirty] [FOLDER]"
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$(realpath -m "${1:-$target/release-files}")
changes=$(git status --porcelain)
[ -z "$changes" ] || [ -n "$dirty" ] || fail "the working tree has changes: commit them, or give --dirty"$'\n'"$changes"
host=$(rustc -vV | sed -n 's/^host: //p')
[[ $host == *-unknown-linux-gnu ]] || fail "$host: expected a system with glibc"
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
time=$(git log -1 --format=%ct)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
rm -f "$out"/adir-*.tar.gz "$out"/SHA256SUMS

# What the program needs of the system: the newest version of glibc's symbols, or nothing.
needs() {
    local headers newest
    # Read to its end: a pipe that `grep -q` closes early fails.
    headers=$(objdump -p "$1")
    if [[ $headers == *NEEDED* ]]; then
        newest=$(objdump -T "$1" | grep -o 'GLIBC_[0-9.]*' | sort -V | tail -n 1)
        echo "glibc ${newest#GLIBC_} or newer"
    else
        echo "nothing: it is static"
    fi
}

# pack TARGET PROGRAM
pack() {
    local name=adir-$version-$1
    local folder=$work/$name
    mkdir -p "$folder"/{completions,man,licences}
    strip -o "$folder/adir" "$2"
    local needed said
    needed=$(needs "$folder/adir")
    [[ $1 != *-musl || $needed == nothing* ]] || fail "$2 is not static"
    said=$("$folder/adir" --version)
    [ "$said" = "adir $version" ] || fail "$2 says $said, but Cargo.toml has $version"
    "$folder/adir" completions bash >"$folder/completions/adir.bash"
    "$folder/adir" completions zsh >"$folder/completions/_adir"
    "$folder/adir" completions fish >"$folder/completions/adir.fish"
    "$folder/adir" man -o "$folder/man"
    cp LICENSE-APACHE LICENSE-MIT README.md CHANGELOG.md "$folder"
    for card in crates/adir-assets/assets/*.md; do cp "$card" "$folder/licences/weights-${card##*/}"; done
    python3 tools/third_party_licences.py --target "$1" >"$folder/licences/third-party.txt"
    tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$time" -c "$name" | gzip -9n >"$out/$name.tar.gz"
    echo "built: $1: program $(stat -c %s "$folder/adir") bytes, $name.tar.gz $(stat -c %s "$out/$name.tar.gz") bytes; needs $needed"
}

cargo build --release --locked --workspace
pack "$host" "$target/release/adir"

musl=${host%-gnu}-musl
compiler=
for name in "${host%%-*}-linux-musl-gcc" musl-gcc; do
    [ -n "$compiler" ] || compiler=$(command -v "$name" || true)
done
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$musl" ]; then
    echo "skipped: $musl: rustc has no such target (rustup target add $musl)"
elif [ -z "$compiler" ]; then
    echo "skipped: $musl: no C compiler for it (musl-gcc)"
else
    export "CC_${musl//-/_}=$compiler"
    cargo build --release --locked --workspace --target "$musl"
    pack "$musl" "$target/$musl/release/adir"
fi
cd "$out"
sha256sum adir-*.tar.gz | tee SHA256SUMS
