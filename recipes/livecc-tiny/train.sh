#!/usr/bin/env bash
# Trains livecc-tiny from random weights: vision warm-up, three stages, packaging.
#
#   recipes/livecc-tiny/train.sh [RUN_FOLDER] [PACKAGE_FOLDER]
#
# Hardware: 2 CPU cores, no GPU. Time: at most 45 minutes. Memory: 4 GB. Needs `pip install -e .[train]`.
# Run it again after an interruption: the long stage continues from its newest checkpoint, the short ones restart.
# Two single-threaded processes are faster than one with two threads, since the matrices are small.
set -euo pipefail
cd "$(dirname "$0")/../.."
run=${1:-runs/livecc-tiny}
package=${2:-src/livecc_hf/assets/livecc-tiny}
python=${PYTHON:-python}
export OMP_NUM_THREADS=1

launch() { "$python" -m torch.distributed.run --standalone --nproc-per-node 2 "$@"; }

stage() { # name, folder to start from
  launch -m livecc_hf.training.script --config "recipes/livecc-tiny/$1.yaml" \
    "model_name_or_path=$2" "output_dir=$run/$1" --resume
}

mkdir -p "$run"
started=$SECONDS
launch recipes/livecc-tiny/warmup.py "$run/0-warmup"
stage 1-lists "$run/0-warmup"
stage 2-narration "$run/1-lists"
stage 3-polish "$run/2-narration"
"$python" recipes/livecc-tiny/package.py "$run/2-narration" "$run/3-polish" "$package"
echo "trained in $(((SECONDS - started) / 60)) minutes"
