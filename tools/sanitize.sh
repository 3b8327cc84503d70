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
    tests=(-m "not slow" tests/kernels tests/test_binding.py tests/test_header.py tests/test_plan.py tests/test_threads.py
        tests/tokenizer)
fi

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q -Cbuild-dir="$work/build" -Ccmake.define.GOLLM_SANITIZE=ON '.[test]'

runtime=$("$cc" -print-file-name=libasan.so)
if "$cc" --version | grep -q clang; then
    runtime=$("$cc" -print-file-name=libclang_rt.asan-x86_64.so)
fi
export LD_PRELOAD="$runtime $("$cc" -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:abort_on_error=1
export UBSAN_OPTIONS=print_stacktrace=1
exec "$work/venv/bin/python" -m pytest -q "${tests[@]}"
