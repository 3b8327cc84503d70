#!/usr/bin/env bash
# Builds gollm with the address and undefined-behaviour sanitizers in an environment of its own, and runs the tests of
# what is written in C there. Arguments go to pytest, instead of the default choice of tests:
#
#     tools/sanitize.sh [tests/kernels -k matmul]
#
# CC chooses the compiler, gcc or clang. The interpreter itself is not sanitized, so the run-time library is loaded
# before it, with libstdc++ beside it for the exceptions of the binding. Leaks are not looked for: Python leaves some at exit.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cc=${CC:-cc}
tests=("$@")
if [ $# = 0 ]; then
    # Every kernel in every instruction-set variant at odd sizes, offsets and numbers of threads, but not what only compares
    # values: test_threads_and_alignment calls the kernels with all the arrays of test_values and test_accumulation, and
    # NaN, infinity, gradients and fifty equal steps take the ways through memory that other numbers take. Of the shapes
    # of heads in attention's pages one is enough, of head size 20, which no vector divides; of the variants with bfloat16
    # one, amx, whose packers the other shares. v2 is v3 with half the width.
    values="test_values or test_accumulation or test_nan_and_infinity_go or test_gradients_are or test_fifty_steps"
    values+=" or test_what_is_masked or (test_a_row_has_the_same_bits and not 20) or avx512bf16 or v2"
    tests=(-n 2 -m "not slow" -k "not ($values)" tests/kernels tests/test_binding.py tests/test_header.py tests/test_plan.py
        tests/test_threads.py tests/tokenizer)
fi

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --config-settings=build-dir="$work/build" \
    --config-settings=cmake.define.GOLLM_SANITIZE=ON '.[test]'

runtime=$("$cc" -print-file-name=libasan.so)
if "$cc" --version | grep -q clang; then
    runtime=$("$cc" -print-file-name=libclang_rt.asan-x86_64.so)
fi
export LD_PRELOAD="$runtime $("$cc" -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:abort_on_error=1
export UBSAN_OPTIONS=print_stacktrace=1
exec "$work/venv/bin/python" -m pytest -q "${tests[@]}"
