#!/usr/bin/env bash
# On a machine with a GPU: tests of the inverse of the TarFlow there, then the published loop against
# it with the same weights, in turn, at sizes that fill the GPU. Takes some ten minutes; what it
# prints also goes to benchmarks/results/gpu_peptide_inverse*.json.
#
#     bash benchmarks/gpu_peptide_inverse.sh [python]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python}
"$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' ||
    { echo "gpu_peptide_inverse: torch sees no GPU here; run it where there is one" >&2; exit 1; }
"$python" -m pytest -q tests/nn/test_inverse.py tests/nn/test_tarflow.py
for batch in 256 2048; do
    "$python" benchmarks/bench_peptide_inverse.py --device cuda --networks prose-288m --blocks 8 \
        --peptides AA AAAA ARIP --batch "$batch" --repeats 3 --name "gpu_peptide_inverse_$batch"
done
"$python" benchmarks/bench_peptide_inverse.py --device cuda --networks fixture small \
    --peptides AA AAAA ARIP --batch 2048 --repeats 5 --name gpu_peptide_inverse_small
