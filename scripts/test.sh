#!/usr/bin/env bash
# Installs the test tools, lints, type-checks the public names, and runs the
# tests.
#   ./scripts/test.sh [--slow] [pytest arguments]
set -euo pipefail
source "$(dirname "$0")/environment.sh"
extras=train,test
if [[ " $* " == *" --slow "* ]]; then
  extras+=,slow,export,wandb,hub,gcs,s3
fi
make_environment "$extras"
"$ENVIRONMENT/bin/ruff" check .
"$ENVIRONMENT/bin/ruff" format --check .
"$ENVIRONMENT/bin/mypy"
# A file's tests mostly stay in one process, which compiles a program once.
"$ENVIRONMENT/bin/python" -m pytest -n "${TEST_PROCESSES:-2}" \
  --dist worksteal "$@"
