#!/usr/bin/env bash
# Compute params/qwen-coder-gsm8k.yaml on a GPU machine that reaches no network:
#
#     WORK=/tmp/gpu OUT=results.gpu benchmarks/gpu_run.sh SECONDS
#
# The machine has torch, transformers, peft, pandas, pyarrow, scipy, statsmodels, typer and rich. $WORK has the rest:
# qwen.0, qwen.1, ... (the GGUF file, cut into pieces), whl/ (wheels of pydantic, pydantic-core, typing-inspection,
# annotated-types and gguf) and data/ (as for GLORE_DATA_DIR). After SECONDS the runs are interrupted; what is finished
# then is in $OUT, without weights, and a second call continues.
#
# BESIDE is a command to run on idle cores meanwhile; PYTHON, PARAMS, SHA256 and SET (options of
# glore compute) are for trials.
set -uo pipefail
cd "$(dirname "$0")/.."
limit=$1 started=$SECONDS
WORK=${WORK:-/tmp/gpu} OUT=${OUT:-results.gpu} PYTHON=${PYTHON:-python3} PARAMS=${PARAMS:-qwen-coder-gsm8k}
MODEL=qwen2.5-coder-0.5b-instruct-q4_k_m.gguf
SHA256=${SHA256:-1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32}
read -ra set <<<"${SET:-}"
export GLORE_DATA_DIR=$WORK/data PYTHONPATH=$WORK/site:$PWD PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TQDM_DISABLE=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} TOKENIZERS_PARALLELISM=false PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
LOGS=$WORK/logs
mkdir -p "$OUT" "$LOGS" models
trap 'tar -czf "$OUT/logs.tar.gz" -C "$WORK" logs' EXIT
glore() { "$PYTHON" -c 'from glore_lib.cli import app; app()' "$@"; }
say() { echo "[$((SECONDS - started)) s] $*"; }
left() { local left=$((limit - SECONDS + started)); echo $((left > 1 ? left : 1)); }

if [[ ! -d $WORK/site ]]; then
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$WORK/site" "$WORK"/whl/*.whl
fi
# A run of a tiny model takes every stage once, before hundreds of megabytes have to be there.
if [[ ! -e $WORK/tiny.done ]]; then
  say "tiny run"
  if ! glore compute tests/params/tiny.yaml --artifacts "$WORK/tiny" \
    --set finetuning.method=lora --set finetuning.mixed_precision=true --set sampling.max_new_tokens=40 >"$LOGS/tiny.log" 2>&1; then
    tail -n 25 "$LOGS/tiny.log"
    exit 3
  fi
  touch "$WORK/tiny.done"
fi

if [[ ! -e models/$MODEL ]]; then
  cat "$WORK"/qwen.? 2>/dev/null >"$WORK/joined"
  echo "$SHA256  $WORK/joined" | sha256sum --check --status || { say "the tiny run works; pieces of the weights are missing or damaged"; exit 2; }
  mv "$WORK/joined" "models/$MODEL"
fi
if [[ ! -e $WORK/base.done ]]; then
  say "base model"
  if ! "$PYTHON" - "$WORK" $PARAMS >"$LOGS/base.log" 2>&1 <<'END'
import shutil, sys
import numpy as np
# A slice of a memory map takes ten times as long as one of an array, and a file's 300,000 texts are read several times.
np.memmap = lambda file, mode="r", dtype=np.uint8, **_: np.fromfile(file, dtype)
from glore_lib.run import open_run
work, first, *others = sys.argv[1:]
run = open_run(f"params/{first}.yaml", {}, f"{work}/{first}")
run.support
for other in others:
    shutil.copytree(f"{work}/{first}", f"{work}/{other}", dirs_exist_ok=True)
END
  then
    tail -n 25 "$LOGS/base.log"
    exit 4
  fi
  touch "$WORK/base.done"
fi

say "runs: $PARAMS"
nvidia-smi --query-gpu=timestamp,memory.used,utilization.gpu --format=csv,noheader -l 5 >"$LOGS/gpu.csv" 2>/dev/null &
watch=$!
jobs=()
if [[ -n ${BESIDE:-} ]]; then
  CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 timeout "$(left)" bash -c "$BESIDE" >"$LOGS/beside.log" 2>&1 &
  jobs+=($!)
fi
compute() { # once more with smaller batches if it fails, as it does where memory runs out
  local rows
  for rows in "" 1024; do
    timeout -k 15 "$(left)" "$PYTHON" -c 'from glore_lib.cli import app; app()' compute "params/$1.yaml" \
      --artifacts "$WORK/$1" "${set[@]}" ${rows:+--set sampling.rows=$rows}
    local code=$?
    [[ $code == 0 || $code == 124 || $code == 137 ]] && break
  done
  say "$1: exit code $code"
}
beside() {
  local rows
  for rows in "" 1024; do
    timeout -k 15 "$(left)" "$PYTHON" benchmarks/gpu_beside.py "params/$1.yaml" "$WORK/$1" "$2" "${set[@]}" \
      ${rows:+--set sampling.rows=$rows} && break
  done
}
for run in $PARAMS; do
  compute "$run" >"$LOGS/$run.log" 2>&1 &
  jobs+=($!)
done
sleep 5
for part in samples figure4; do
  beside "${PARAMS%% *}" $part >"$LOGS/${PARAMS%% *}-$part.log" 2>&1 &
  jobs+=($!)
done
wait "${jobs[@]}"
kill $watch 2>/dev/null

for run in $PARAMS; do
  say "$run"
  grep -hE "s$|exit code|error|Error" "$LOGS/$run.log" | tail -n 60
  rm -f "$WORK/$run.tar.gz"
  if ! glore pack "params/$run.yaml" --artifacts "$WORK/$run" "${set[@]}" --out "$WORK/$run.tar.gz"; then
    tar -czf "$WORK/$run.tar.gz" --exclude='*.safetensors' --exclude='tokenizer*' -C "$WORK" "$run" # as it is
  fi
  split -b 15M -d -a 1 "$WORK/$run.tar.gz" "$OUT/$run.tar.gz."  # glore unpack results.gpu/RUN.tar.gz.*
done
grep -h "beside" "$LOGS"/*-{samples,figure4}.log
sort -t, -k2 -rn "$LOGS/gpu.csv" 2>/dev/null | head -n 1
say "done"
