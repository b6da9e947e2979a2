#!/usr/bin/env bash
# Makes the environment with the test tools, lints, and runs the tests.
#   ./scripts/test.sh [--slow] [pytest arguments]
set -euo pipefail
source "$(dirname "$0")/environment.sh"
requirements=(requirements.txt requirements-test.txt)
if [[ " $* " == *" --slow "* ]]; then
  requirements+=(requirements-export.txt) # onnxruntime is an oracle
  requirements+=(requirements-wandb.txt)
fi
make_environment "${requirements[@]}"
"$ENVIRONMENT/bin/ruff" check .
"$ENVIRONMENT/bin/ruff" format --check .
"$ENVIRONMENT/bin/python" -m pytest -n "${TEST_PROCESSES:-2}" "$@"
