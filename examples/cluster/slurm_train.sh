#!/bin/bash
# Stage two on several machines under Slurm: one torchrun a machine, one process a GPU.
#   sbatch examples/cluster/slurm_train.sh /shared/caches/imagenet /shared/runs/imagenet
# Ten minutes before the time is up Slurm sends SIGUSR1: the run ends after its step, with a checkpoint, and the same
# line goes on with it.
#SBATCH --job-name=ci2p-train
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@600
#SBATCH --output=ci2p-train-%j.log
set -euo pipefail
shards=$1 out=$2
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
exec srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$head:29500" \
    --no-python ci2p train "$shards" --out "$out" --recipe paper-imagenet
