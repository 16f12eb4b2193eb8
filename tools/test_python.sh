#!/usr/bin/env bash
# Builds the Python module and runs its tests beside the program: tools/test_python.sh
#
# Needs cargo, Python 3.9 or later with numpy, Pillow and pytest, and maturin. Where one is missing it says so and stops with
# success. Tests of PyTorch and deepinv are skipped where these are not installed. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"

skip() {
    echo "skipped: $*"
    exit 0
}

command -v "$python" >/dev/null || skip "$python is not installed"
for module in numpy PIL pytest maturin; do
    "$python" -c "import $module" 2>/dev/null || skip "$python has no $module"
done
target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
cargo build --release --locked
wheels="$(mktemp -d)"
trap 'rm -rf "$wheels"' EXIT
(cd crates/adir-py && CARGO_TARGET_DIR="$target/python" "$python" -m maturin build --release --locked --quiet --out "$wheels/dist")
ls -l "$wheels"/dist/*.whl
"$python" -m pip install --quiet --no-deps --target "$wheels/site" "$wheels"/dist/*.whl
ADIR="$target/release/adir" PYTHONPATH="$wheels/site" "$python" -m pytest -q -p no:cacheprovider "$@" crates/adir-py/tests
