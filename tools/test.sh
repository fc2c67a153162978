#!/usr/bin/env bash
# Install what the tests need into a virtual environment and run all checks: ruff, mypy, pytest.
#   tools/test.sh [pytest arguments]
# LIEQ_VENV names the virtual environment (default .venv), LIEQ_PYTHON the Python that makes it.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
install_project "test"
"$VENV/bin/ruff" check lieq_edge tests tools benchmarks
"$VENV/bin/ruff" format --check lieq_edge tests tools benchmarks
"$VENV/bin/mypy"
for platform in win32 darwin; do
    "$VENV/bin/mypy" --platform "$platform" lieq_edge
done
"$VENV/bin/python" -m pytest "$@"
