#!/usr/bin/env bash
# Two machines with 8 GPUs each, as one run. Start it on both machines, with the address of the first:
#
#   recipes/accelerate/two_nodes.sh 0 10.0.0.1 recipes/livecc-7b/pretrain.yaml dtype=bfloat16 \
#     gradient_accumulation_steps=32
#   recipes/accelerate/two_nodes.sh 1 10.0.0.1 recipes/livecc-7b/pretrain.yaml dtype=bfloat16 \
#     gradient_accumulation_steps=32
#
# With twice the processes and half the accumulation steps, a step takes the same number of rows. output_dir must be on
# a disk that both machines share. Other launchers: LAUNCHER=recipes/accelerate/fsdp2.yaml, without dtype=bfloat16; other sizes: GPUS=4;
# another port: PORT=29501.
# Hardware: 2 x 8 GPUs of 80 GB for the 7B model, with a fast network between them. Memory: less than the
# recipe's, since shards are spread over 16 GPUs instead of 8. Time: about half of the recipe's.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: $0 MACHINE_RANK(0 or 1) ADDRESS_OF_MACHINE_0 RECIPE [key=value ...]" >&2
  exit 2
fi
rank=$1 address=$2 recipe=$3
shift 3
exec accelerate launch --config_file "${LAUNCHER:-recipes/accelerate/zero2.yaml}" \
  --num_machines 2 --num_processes $((2 * ${GPUS:-8})) --machine_rank "$rank" \
  --main_process_ip "$address" --main_process_port "${PORT:-29500}" \
  -m livecc_hf.training.script --config "$recipe" "$@"
