#!/bin/bash
# Stage one on a Ray cluster, as a job that Ray keeps: the terminal may be closed.
#   bash examples/cluster/ray_encode.sh http://HEAD:8265 imagenet /data/imagenet s3://bucket/caches/imagenet
# ci2p with its ray extra is installed on every node; data and cache lie where all nodes see them. Run it again to go on.
set -euo pipefail
dashboard=$1 dataset=$2 data_dir=$3 out=$4
exec ray job submit --address "$dashboard" --submission-id "ci2p-encode-$(date +%s)" -- \
    ci2p encode --dataset "$dataset" --data-dir "$data_dir" --out "$out" --launch ray --ray-gpus 0.5
