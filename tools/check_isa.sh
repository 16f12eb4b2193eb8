#!/usr/bin/env bash
# Do the kernels compute the same on processors this machine is not? tools/check_isa.sh [FOLDER]
#
# Runs the built program (cargo build --release --workspace) on an emulated x86-64 without AVX (Nehalem) and one with AVX2 (Haswell),
# and the kernels' tests built for 64-bit Arm (NEON) on an emulated one. Needs qemu-user, and for Arm gcc-aarch64-linux-gnu,
# libc6-dev-arm64-cross and `rustup target add aarch64-unknown-linux-gnu`. FOLDER (default target/arm) takes the Arm build.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-target/arm}
cases=crates/adir/tests/fixtures
for processor in Nehalem Haswell; do
    echo "== $processor"
    qemu-x86_64 -cpu $processor target/release/adir verify -q --model $cases/mini_legacy.weights.safetensors \
        --model-config $cases/mini_legacy.json --cases $cases/mini_legacy.cases.safetensors
done
echo "== Arm"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu" CARGO_TARGET_DIR=$folder
cargo test --release --locked --target aarch64-unknown-linux-gnu -p adir-kernels
