#!/usr/bin/env bash
# Tests the web page of `adir serve` in a browser: tools/test_web.sh [more arguments for node --test]
#
# Needs the built program (cargo build --release; ADIR names another), Chromium (CHROMIUM), Node 20 and npm, which installs
# playwright-core and axe-core into target/web. Where one is missing it says so and stops with success. SHOTS names a folder for
# pictures of the views; PAGE one whose files stand in for those in the program (crates/adir-web/src/page: no build is needed).
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "skipped: $*"
    exit 0
}

target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
ADIR="$(realpath -m "${ADIR:-$target/release/adir}")"
CHROMIUM="$(command -v "${CHROMIUM:-chromium}")" || skip "Chromium is not installed"
for tool in node npm; do command -v $tool >/dev/null || skip "$tool is not installed"; done
[ -x "$ADIR" ] || { echo "there is no $ADIR: cargo build --release" >&2; exit 1; }
mkdir -p "$target/web"
if ! cmp -s tools/web/package.json "$target/web/package.json" || [ ! -d "$target/web/node_modules" ]; then
    rm -rf "$target/web/node_modules"
    cp tools/web/package.json "$target/web/"
    npm install --prefix "$target/web" --no-audit --no-fund --no-package-lock --ignore-scripts ||
        { rm "$target/web/package.json"; skip "npm cannot install playwright-core and axe-core"; }
fi
export ADIR CHROMIUM PACKAGES="$target/web" GALLERY="$PWD/examples/gallery"
exec node --test --test-reporter spec "$@" tools/web/test.mjs
