#!/usr/bin/env bash
# Makes .venv, trains a small normalizer-free network with AGC on real digits,
# and shows the accuracy, a picture of the curves and the run's folder.
#   ./scripts/quickstart.sh [WORKDIR]    (default: runs/quickstart)
set -euo pipefail
workdir=${1:-}
[[ -z $workdir || $workdir = /* ]] || workdir=$PWD/$workdir
source "$(dirname "$0")/environment.sh"
make_environment train
"$ENVIRONMENT/bin/python" -m scripts.train --config=configs/quickstart.py \
  --workdir="${workdir:-runs/quickstart}"
