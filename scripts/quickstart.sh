#!/usr/bin/env bash
# Creates .venv, trains a small normalizer-free network with AGC on handwritten
# digits, and prints the test accuracy and where the curves and the run are.
#   ./scripts/quickstart.sh [WORKDIR]    (default: runs/quickstart)
set -euo pipefail
workdir=${1:-}
[[ -z $workdir || $workdir = /* ]] || workdir=$PWD/$workdir
source "$(dirname "$0")/environment.sh"
make_environment train
"$ENVIRONMENT/bin/python" -m scripts.train --config=configs/quickstart.py \
  --workdir="${workdir:-runs/quickstart}"
