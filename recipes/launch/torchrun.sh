#!/usr/bin/env bash
# One machine, all its GPUs, restarted after a crash:  recipes/launch/torchrun.sh RECIPE [key=value ...]
# torchrun hands signals on and then waits: 300 s are enough for a checkpoint (its default is 30 s).
set -euo pipefail
exec torchrun --standalone --nproc_per_node "${PROCESSES:-gpu}" --max-restarts "${RESTARTS:-3}" \
  --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGUSR1 --shutdown-timeout "${PATIENCE:-300}" \
  -m vlp.train --config "$@" --resume
