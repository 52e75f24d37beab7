#!/usr/bin/env bash
# Builds the CPU operators with AddressSanitizer and UndefinedBehaviorSanitizer, in a copy of the
# package that is removed afterwards, and runs their tests so; the first finding ends it.
#
#   tools/sanitize_ops.sh [pytest arguments]      with PYTHON=interpreter and CXX=g++, if others
#
# What it does not see: the loops as AVX-512 and AVX2 code (the choice between them, made while the
# library is loaded, comes before the sanitizers are ready), and inside of PyTorch.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
python=$(command -v "${PYTHON:-python}")
compiler=${CXX:-g++}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cd "$repository"
cp -r setup.py pyproject.toml README.md detectron2_agssp tests configs tools "$folder"
cd "$folder"
find . -name "*.so" -delete
flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
CFLAGS="$flags" CXXFLAGS="$flags" LDFLAGS="$flags" FORCE_CUDA=0 CUDA_VISIBLE_DEVICES="" \
    AGSSP_BUILD=required "$python" setup.py build_ext --inplace >build.log 2>&1 ||
    { cat build.log >&2; exit 1; }
grep "operators compiled" build.log

# libstdc++ too: else the sanitizer does not find the function that throws, when PyTorch throws.
libraries=$(for name in libasan.so libubsan.so libstdc++.so.6; do
    "$compiler" -print-file-name="$name"
done | tr '\n' ' ')
# Python itself leaves memory behind when it ends.
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export PYTHONPATH=$folder
# --capture=sys: a report goes to the process's own stderr, which pytest would keep and lose.
LD_PRELOAD="$libraries" "$python" -m pytest tests/ops -m "not slow" -p no:cacheprovider \
    --capture=sys "$@"
echo "No finding."
