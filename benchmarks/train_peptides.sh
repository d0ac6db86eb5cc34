#!/usr/bin/env bash
# Makes data, trains a flow for peptides of two to four residues and judges it, in a budget of minutes:
# the larger sister of checkpoints/peptide, for one GPU and the processor cores beside it.
#
#     bash benchmarks/train_peptides.sh [simulate] [train] [judge]     (all three by default)
#
# Each part can be killed and started again. It needs torch, pytorch-lightning, openmm, jsonargparse,
# safetensors and a C compiler (without one, SIMULATE_ON=cuda); gensci need not be installed.
#
# Settings (environment): SIMULATE_MINUTES 7, TRAIN_MINUTES 13, JUDGE_MINUTES 4; SIMULATE_ON cpu or
# cuda; CORPUS (systems for gensci simulate); WORK runs/train-peptides; OUT, to which the
# checkpoint, its learning curve and the tables are copied; REHEARSAL=1 for a tiny run of
# everything on a CPU.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
python=${PYTHON:-python3}
cores=$(nproc)
if [ "${REHEARSAL:-}" = 1 ]; then
    SIMULATE_MINUTES=1 TRAIN_MINUTES=1 JUDGE_MINUTES=1 CORPUS=${CORPUS:-GA,AGA}
    length=2ps equilibration=1ps ladders=2 draws=64 judged=GA,AGA
    network=(channels=16 num_layers=1 num_heads=2 pair_channels=4)
    batch=(groups_per_batch=2 frames_per_group=8 batches_per_epoch=5)
    model=(warmup_steps=3 own_samples=4 energy_after=6)
else
    length=50ps equilibration=18ps ladders=6 draws=10000 judged=AA,RT,ARIP,CCVH,GCDE,FESD
    # 3,809,360 parameters, 15.2 MB: a checkpoint may have 16
    network=(channels=256 num_layers=5 num_heads=8 pair_channels=48)
    batch=(groups_per_batch=16 frames_per_group=64 batches_per_epoch=100)
    model=(warmup_steps=200 own_samples=64 energy_after=1500 learning_rate=1e-3)
fi
work=${WORK:-$root/runs/train-peptides}
corpus=${CORPUS:-dipeptides,tripeptides:300,tetrapeptides:1500}
mkdir -p "$work"

# where the package is not installed, a folder of links puts `gensci.sims` where it belongs
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
mkdir "$packages/gensci"
ln -s "$root"/gensci/* "$root/sims" "$root/checkpoints" "$packages/gensci/"
export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
gensci() { "$python" -m gensci "$@"; }

simulate() {
    # a run that its time cuts off keeps whole peptides and goes on when called again
    # fewer replicas for longer: from a hot start energies take some 20 ps to fall
    local settings=(--length "$length" --frame-interval 0.5ps --time-step 3fs --masses uniform
        --equilibration "$equilibration" --temperatures 4 --hottest 500 --pivots 16
        --ladders "$ladders")
    local deadline=$((SECONDS + 60 * ${SIMULATE_MINUTES:-7}))
    gensci_for "$deadline" simulate --system "${VALIDATION:-AL,PF,WY,CAVQ,GNFL,KHAP}" --seed 2 \
        --out "$work/validation" "${settings[@]}" --threads "$cores"
    local on=(--threads "$cores" --batch "$cores")
    if [ "${SIMULATE_ON:-cpu}" = cuda ]; then on=(--device cuda --batch 64); fi
    gensci_for "$deadline" simulate --system "$corpus" --seed 1 --out "$work/data" \
        "${settings[@]}" "${on[@]}"
}

gensci_for() {
    local left=$(($1 - SECONDS))
    shift
    if [ "$left" -lt 1 ]; then return 0; fi
    timeout -s INT "$left" "$python" -m gensci "$@" || [ $? = 124 ] || [ $? = 130 ]
}

fit() {
    local options=() one
    for one in "${network[@]}"; do options+=("--model.network.init_args.${one%%=*}" "${one#*=}"); done
    for one in "${batch[@]}"; do options+=("--data.${one%%=*}" "${one#*=}"); done
    for one in "${model[@]}"; do options+=("--model.${one%%=*}" "${one#*=}"); done
    (cd "$work" && gensci train fit --config peptide --model.start_from null "${options[@]}" \
        --data.root "$work/data" --data.validation_root "$work/validation" --data.size_power 1.5 \
        --trainer.num_sanity_val_steps 0 --trainer.enable_progress_bar false "$@")
}

train() {
    # Most of the time at the full rate; then as many steps of a falling one as the rest allows.
    local seconds=$((60 * ${TRAIN_MINUTES:-13})) begun=$SECONDS steps
    fit --trainer.max_steps 1000000 --trainer.max_time "00:00:00:$((seconds * 7 / 10))" \
        --model.decay_steps 1
    steps=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["meta"]["steps"])' \
        "$work/runs/peptide/checkpoint/model.json")
    local rest=$((steps * 3 / 8))
    fit --trainer.max_steps "$((steps + rest))" --model.decay_steps "$rest"
    echo "trained for $((SECONDS - begun)) s, $((steps + rest)) steps"
}

judge() {
    timeout -s INT "$((60 * ${JUDGE_MINUTES:-4}))" "$python" "$here/bench_peptide_ensembles.py" \
        --checkpoint "$work/runs/peptide/checkpoint" --names "$judged" -n "$draws" \
        --result peptides-trained || [ $? = 124 ]
}

for part in "${@:-simulate train judge}"; do for one in $part; do "$one"; done; done

if [ -n "${OUT:-}" ]; then
    cp "$work"/runs/peptide/checkpoint/model.* "$OUT/"
    cat "$work"/runs/peptide/lightning_logs/version_*/metrics.csv >"$OUT/curve.csv"
    cp "$here/results/peptides-trained.json" "$OUT/" 2>/dev/null || true
fi
