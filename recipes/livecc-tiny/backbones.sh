#!/usr/bin/env bash
# Trains a tiny model on every backbone with livecc-tiny's recipe and a third of its samples, and measures their
# commentary on 100 held-out clips.
#
#   recipes/livecc-tiny/backbones.sh [VARIANT ...]     # default: every one in backbone_stage.py
#   RUNS=runs/elsewhere SHARE=0.5 recipes/livecc-tiny/backbones.sh qwen2_vl qwen3_vl
#
# Run it again after an interruption: finished stages and measurements are kept, and the long stage continues from
# its newest checkpoint. Hardware: 2 CPU cores, no GPU. Memory: 4 GB. Needs `pip install -e .[train]`.
set -euo pipefail
cd "$(dirname "$0")/../.."
runs=${RUNS:-runs/livecc-tiny-backbones}
share=${SHARE:-0.3333}
python=${PYTHON:-python}
export OMP_NUM_THREADS=1
variants=("$@")
[ $# -gt 0 ] || variants=(qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_untimed)

for variant in "${variants[@]}"; do
  run=$runs/$variant
  mkdir -p "$run"
  [ -f "$run/share" ] || echo "$share" >"$run/share"
  if [ "$(cat "$run/share")" != "$share" ]; then
    echo "$run was started with SHARE=$(cat "$run/share"), not $share: use that value, or set RUNS to another folder" >&2
    exit 1
  fi
  for stage in 0-warmup 1-lists 2-narration 3-polish 4-mean; do
    [ -f "$run/$stage/processor_config.json" ] && continue
    processes=2
    [ "$stage" != 4-mean ] || processes=1
    echo "$stage begun" >>"$run/seconds"
    began=$SECONDS
    "$python" -m torch.distributed.run --standalone --nproc-per-node "$processes" \
      recipes/livecc-tiny/backbone_stage.py "$variant" "$stage" "$run" --share "$share" \
      ${MAX_STEPS:+--max-steps "$MAX_STEPS"}
    echo "$stage $((SECONDS - began))" >>"$run/seconds"
  done
done
"$python" benchmarks/quality/backbone_recall.py --runs "$runs" ${CLIPS:+--clips "$CLIPS"} ${OUTPUT:+--output "$OUTPUT"}
