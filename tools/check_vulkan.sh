#!/usr/bin/env bash
# Does the Vulkan build compute what the CPU computes? Checked on Mesa's software device, so that no GPU is needed:
#   tools/check_vulkan.sh [FOLDER]
#
# Needs Mesa's lavapipe and the Vulkan loader (Debian: mesa-vulkan-drivers libvulkan1) and python3. cubecl-spirv 0.11.3 writes
# invalid code for shared memory on drivers without VK_KHR_workgroup_memory_explicit_layout, as lavapipe is: two types are
# exchanged. This script builds a copy of the sources in FOLDER (default target/vulkan-check) with that put right; GPUs take another
# path and need no change. The builds of the repository are left alone.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$root/target/vulkan-check}
mkdir -p "$folder/source"
(cd "$root" && git ls-files -z | tar --null -T - -cf -) | tar -C "$folder/source" -xf -
cd "$folder/source"
cargo fetch --locked
crate=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/cubecl-spirv-0.11.3 | head -1)
rm -rf "$folder/cubecl-spirv"
cp -r "$crate" "$folder/cubecl-spirv"
python3 - "$folder/cubecl-spirv/src/ops/memory.rs" <<'PYTHON'
import sys
path = sys.argv[1]
text = open(path).read()
start = text.index("fn lower_shared_implicit(")
end = text.index("fn lower_shared_explicit(")
body = text[start:end]
body = body.replace("let ty = ty_to", "let swapped = ty_to").replace("let value_ty = ty_to", "let ty = ty_to")
body = body.replace("let swapped = ty_to", "let value_ty = ty_to")
assert body != text[start:end]
open(path, "w").write(text[:start] + body + text[end:])
PYTHON
grep -q '^\[patch.crates-io\]' Cargo.toml || printf '\n[patch.crates-io]\ncubecl-spirv = { path = "%s" }\n' "$folder/cubecl-spirv" >> Cargo.toml
export CARGO_TARGET_DIR=$folder/target
cargo build --release --workspace --features adir-cli/vulkan
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$(mktemp -d)}
VK_DRIVER_FILES=${VK_DRIVER_FILES:-$(ls /usr/share/vulkan/icd.d/lvp_icd*.json | head -1)}
export VK_DRIVER_FILES
cases=crates/adir/tests/fixtures
"$CARGO_TARGET_DIR/release/adir" verify --device vulkan --model $cases/mini_legacy.weights.safetensors \
    --model-config $cases/mini_legacy.json --cases $cases/mini_legacy.cases.safetensors
