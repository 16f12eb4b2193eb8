#!/usr/bin/env bash
# Builds adir for GPUs with Vulkan: tools/build_vulkan.sh [more arguments for cargo build]
#
# Needs cargo and a C compiler, nothing else; at run time a Vulkan driver (libvulkan.so.1). The program lies in
# target/release/adir (or $CARGO_TARGET_DIR/release/adir): `adir restore ... --device vulkan`, `vulkan:1` for the second GPU.
# Check it with `adir verify --device vulkan --model WEIGHTS --cases CASES` (docs/results/performance.md).
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo build --release --locked --workspace --features adir-cli/vulkan "$@"
