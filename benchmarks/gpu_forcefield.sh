#!/usr/bin/env bash
# Tests and measures the GPU kernels of the force field in one command. It needs python with torch,
# triton, numpy and safetensors (and pytest and hypothesis for the tests); neither OpenMM nor gensci
# need be installed. Results go to benchmarks/results, and to $OUT where that is set.
# GENSCI_TESTS=0 leaves the tests out; GENSCI_REHEARSAL=1 runs all at a tiny size without a GPU.
#
#     bash benchmarks/gpu_forcefield.sh
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
python=${PYTHON:-python3}

# where the package is not installed, a folder of links puts `gensci.sims` where it belongs
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
mkdir "$packages/gensci"
ln -s "$root"/gensci/* "$root/sims" "$packages/gensci/"
ln -s "$root/tests" "$root/benchmarks" "$root/pyproject.toml" "$packages/"
export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1

if ! ls "$here"/data/forcefield_*.safetensors >/dev/null 2>&1; then
    "$python" "$here/export_parameters.py"
fi
if [ "${GENSCI_REHEARSAL:-}" = 1 ]; then
    export TRITON_INTERPRET=1
fi
status=0
if [ "${GENSCI_TESTS:-1}" = 1 ] && "$python" -c "import pytest, hypothesis" 2>/dev/null; then
    tests=(-q -p no:cacheprovider tests/sims/test_gpu_forcefield.py)
    (cd "$packages" && env -u TRITON_INTERPRET "$python" -m pytest "${tests[@]}") || status=$?
fi
"$python" "$here/bench_gpu_forcefield.py" || status=$?
exit $status
