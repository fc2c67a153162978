#!/usr/bin/env bash
# Install what the tests need into a virtual environment and run all checks: ruff, mypy, import rules, pytest.
#   tools/test.sh [pytest arguments]
# Needs bash (Linux, macOS, WSL); types are checked for Windows and macOS, too, wherever it runs.
# LIEQ_VENV names the virtual environment (default .venv), LIEQ_PYTHON the Python that makes it, LIEQ_TEST_PROCESSES how
# many processes share the tests (default 2, each on cores of its own; 0: none but pytest's).
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
install_project "test"
"$VENV/bin/ruff" check lieq_edge tests tools benchmarks
"$VENV/bin/ruff" format --check lieq_edge tests tools benchmarks
"$VENV/bin/mypy"
"$VENV/bin/mypy" --platform win32 --cache-dir .mypy_cache/win32 lieq_edge
"$VENV/bin/mypy" --platform darwin --cache-dir .mypy_cache/darwin lieq_edge
"$VENV/bin/lint-imports"
"$VENV/bin/python" -m pytest -n "${LIEQ_TEST_PROCESSES:-2}" --dist loadfile "$@"
