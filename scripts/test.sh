#!/usr/bin/env bash
# Makes .venv with the test tools, lints, and runs the tests.
#   ./scripts/test.sh [--slow] [pytest arguments]
set -euo pipefail
source "$(dirname "$0")/environment.sh"
requirements=(requirements.txt requirements-test.txt)
if [[ " $* " == *" --slow "* ]]; then
  requirements+=(requirements-export.txt) # onnxruntime is an oracle
  requirements+=(requirements-wandb.txt)
fi
make_environment "${requirements[@]}"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/python -m pytest -n "${TEST_PROCESSES:-2}" "$@"
if [[ " $* " == *" --slow "* ]]; then
  # To be read: a ratio that rose is a regression. Timings never fail a build.
  .venv/bin/python -m scripts.benchmark --gate --rounds=3 ||
    echo 'the gate was not measured'
fi
