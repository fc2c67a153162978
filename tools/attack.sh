#!/usr/bin/env bash
# Attack the program with N generated cases (default 5000): damaged files, odd names, faults, several processes.
#   tools/attack.sh [N] [--jobs J]
# Prints what failed, each with the command that tries it alone, and a table; exit code 1 when anything failed.
# Needs Linux. LIEQ_VENV names the virtual environment (default .venv), LIEQ_PYTHON the Python that makes it.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
install_project "test"
exec "$VENV/bin/python" -m tests.attack.run --all "${1:-5000}" --times "${@:2}"
