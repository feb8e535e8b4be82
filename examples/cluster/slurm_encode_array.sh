#!/bin/bash
# Stage one as a Slurm array: each task writes its own shards, whatever node it is on and whenever it runs.
#   sbatch examples/cluster/slurm_encode_array.sh imagenet /data/imagenet /shared/caches/imagenet
# A task that was killed goes on where it stopped when it is submitted again (sbatch --array=3 ...), with the same
# WORLD_SIZE; the task that sees the last shard writes the manifest.
#SBATCH --job-name=ci2p-encode
#SBATCH --array=0-7
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=ci2p-encode-%A-%a.log
set -euo pipefail
dataset=$1 data_dir=$2 out=$3
export WORLD_SIZE=${WORLD_SIZE:-$SLURM_ARRAY_TASK_COUNT} # of the whole array, when single tasks are submitted again
export RANK=$((SLURM_ARRAY_TASK_ID % WORLD_SIZE)) LOCAL_RANK=0 LOCAL_WORLD_SIZE=1
exec ci2p encode --dataset "$dataset" --data-dir "$data_dir" --out "$out" --workers "$SLURM_CPUS_PER_TASK"
