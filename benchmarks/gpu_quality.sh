#!/usr/bin/env bash
# MCD against its controls at 12 layers, on text of the machine, slice by slice.
#
#     bash benchmarks/gpu_quality.sh              # until the report is written
#     SLICES=1 bash benchmarks/gpu_quality.sh     # one slice, then back to the queue
#
# The comparison of benchmarks/quality.py at a size that needs a GPU: evaluator and teacher, MCD,
# SDTT and subset consistency from it, the teacher trained further at the same budget, and the
# teacher over temperatures; each sampled under independent masks and a lattice. A slice ends
# before MINUTES are over, after a checkpoint; status 3: call it again, 0: the report is written.
# Everything goes to OUT; use another for another machine or other sizes. No figure of it has been
# measured yet.
set -euo pipefail

OUT=${OUT:-gpu_quality} MINUTES=${MINUTES:-8} SLICES=${SLICES:-1000} SEED=${SEED:-1}
DEVICE=${DEVICE:-cuda} PYTHON=${PYTHON:-python3}
SAVING=${SAVING:-60} # seconds of a slice that are left for the last checkpoint
DATA=${DATA:-} # UTF-8 files, with commas between; default: the standard library's text
LENGTH=${LENGTH:-512} BATCH=${BATCH:-64} MICRO_BATCH=${MICRO_BATCH:-32} SAMPLES=${SAMPLES:-256}
MODEL=${MODEL:-model=small} VOCAB=${VOCAB:-8192} EVERY=${EVERY:-250} ROWS=${ROWS:-64}
# The standard library's text is some 1.5M tokens: the best checkpoint by held-out likelihood is
# taken of evaluator and teacher, since both pass over it many times.
JUDGE_STEPS=${JUDGE_STEPS:-1000} TEACHER_STEPS=${TEACHER_STEPS:-10000}
ROUNDS=${ROUNDS:-5} STEPS_PER_ROUND=${STEPS_PER_ROUND:-1000}
STEPS=${STEPS:-4 8 16 32 64 128} TEMPERATURES=${TEMPERATURES:-0.5,0.6,0.7,0.8,0.9,1.0}

BUDGET=$((ROUNDS * STEPS_PER_ROUND)) # of each distillation, and of the teacher trained further
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd)

# run NAME MODULE ARGUMENTS...: once; SIGTERM, at which a training saves, ends it with the slice.
run() {
    local done=$OUT/done/$1 left=$((60 * MINUTES - SAVING - SECONDS)) status=0
    [ ! -e "$done" ] || return 0
    [ "$left" -gt 0 ] || exit 3
    echo "$1"
    timeout --foreground "$left" "$PYTHON" -m "${@:2}" >>"$OUT/log.txt" 2>&1 || status=$?
    [ "$status" -ne 124 ] || exit 3
    [ "$status" -eq 0 ] || { tail -n 5 "$OUT/log.txt" >&2 && exit 1; }
    mkdir -p "$OUT/done" && touch "$done"
}

# train NAME ALGO STEPS OVERRIDES...: the embedded host goes on by itself from last.ckpt.
train() {
    local text=stdlib accelerator=gpu
    [ -z "$DATA" ] || text="textfile data.files=[$DATA]"
    [ "$DEVICE" != cpu ] || accelerator=cpu
    # shellcheck disable=SC2086 # words
    run "$1" mdlm_mcd.minihost.main "hydra.run.dir=$OUT/runs/$1" "algo=$2" $MODEL data=$text \
        "data.cache_dir=$OUT/cache" data.vocab_size="$VOCAB" model.length="$LENGTH" seed="$SEED" \
        loader.global_batch_size="$BATCH" loader.batch_size="$MICRO_BATCH" \
        lr_scheduler.num_warmup_steps=$(($3 < 50 ? 1 : $3 / 50)) trainer.max_steps="$3" \
        trainer.accelerator=$accelerator trainer.devices=1 \
        trainer.val_check_interval=$((EVERY * BATCH / MICRO_BATCH)) \
        "callbacks=[checkpoint_every_n_steps,checkpoint_monitor,lines]" \
        callbacks.checkpoint_every_n_steps.every_n_train_steps="$EVERY" \
        +trainer.enable_progress_bar=false +trainer.enable_model_summary=false "${@:4}"
}

# Which the distillers bring along: save at SIGTERM.
saving() {
    echo "+callbacks.saving._target_=mdlm_mcd.distillers.callbacks.saving.SaveRounds" \
        "+callbacks.saving.dirpath=$OUT/runs/$1/checkpoints"
}

# sweep NAME TEMPERATURES ROW=CHECKPOINT...: each number of steps has a lattice of its own.
sweep() {
    for n in $STEPS; do
        run "$1-at-$n" mdlm_mcd.commands.main sweep "${@:3}" --steps "$n" --temperature "$2" \
            --u-law iid "lattice:1/$n" --num-samples "$SAMPLES" --bound-rows "$ROWS" \
            --batch-size $((SAMPLES < 64 ? SAMPLES : 64)) --seed "$SEED" --device "$DEVICE" \
            --evaluator "$OUT/runs/judge/checkpoints/best.ckpt" --out "$OUT/results.jsonl"
    done
}

slice() {
    SECONDS=0
    local pretrained="lr_scheduler=cosine_decay_warmup optim.lr=6e-4 training.ema=0.999"
    local student="optim.lr=1e-4 training.ema=0.99" teacher=$OUT/runs/teacher/checkpoints/best.ckpt
    local k rows=("continued=$OUT/runs/continued/checkpoints/last.ckpt")
    # shellcheck disable=SC2046,SC2086 # words
    {
        train judge ar "$JUDGE_STEPS" $pretrained $(saving judge)
        train teacher mdlm "$TEACHER_STEPS" $pretrained algo.loss_type=low_var $(saving teacher)
        train continued mdlm "$BUDGET" $student "training.finetune_path=$teacher" \
            $(saving continued)
        for algo in mcd sdtt; do
            train $algo $algo "$BUDGET" $student "algo.teacher_path=$teacher" \
                "algo.delta0=4/$LENGTH" algo.rounds="$ROUNDS" \
                algo.steps_per_round="$STEPS_PER_ROUND"
            for ((k = 1; k <= ROUNDS; k++)); do
                rows+=("${algo^^} round $k=$OUT/runs/$algo/checkpoints/round-$k.ckpt")
            done
        done
        train subset subset "$BUDGET" $student "algo.teacher_path=$teacher" algo.rounds=1 \
            algo.steps_per_round="$BUDGET"
    }
    rows+=("Subset consistency round 1=$OUT/runs/subset/checkpoints/round-1.ckpt")
    sweep teacher "$TEMPERATURES" "teacher=$teacher"
    sweep students 1.0 "${rows[@]}"
    run report mdlm_mcd.commands.main report "$OUT/results.jsonl" --reference teacher \
        --title "MCD and its controls at 12 layers" --out "$OUT/report.html"
    echo "Wrote $OUT/report.html."
}

status=3
for ((i = 0; i < SLICES && status == 3; i++)); do
    touch "$OUT/began"
    status=0
    (slice) || status=$?
    if [ "$status" -eq 3 ] && [ -z "$(find "$OUT" -newer "$OUT/began" \
        \( -name '*.ckpt' -o -name results.jsonl -o -path '*/done/*' \))" ]; then
        echo "MINUTES=$MINUTES are too few for one checkpoint or one point: give more." >&2
        exit 1
    fi
done
exit "$status"
