#!/usr/bin/env bash
# Install the oldest versions that pyproject.toml allows and import every module of the package with them.
#   tools/lower_bounds.sh
# PyTorch and llama-cpp-python are left as pip chooses them: old builds of the first are not to be had for all Pythons
# without several GB of CUDA, and the second would be compiled once more.
# Needs network. LIEQ_PYTHON names the Python that makes the virtual environment; the environment is removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${LIEQ_PYTHON:-python3}" -m venv "$folder/venv"
python="$folder/venv/bin/python"
"$python" -m pip install --quiet --disable-pip-version-check --upgrade pip packaging
"$python" - > "$folder/oldest.txt" <<'PROGRAM'
import re
from pathlib import Path

from packaging.requirements import Requirement

listed = Path("pyproject.toml").read_text().split("\ndependencies = [", 1)[1].split("\n]", 1)[0]
for text in re.findall(r'^\s*"([^"]+)"', listed, re.MULTILINE):
    needed = Requirement(text)
    (bound,) = (spec.version for spec in needed.specifier if spec.operator == ">=")
    if needed.name not in ("torch", "llama-cpp-python"):
        print(f"{needed.name}=={bound}")
PROGRAM
cat "$folder/oldest.txt"
export CMAKE_ARGS="${CMAKE_ARGS:--DLLAVA_BUILD=OFF}"
"$python" -m pip install --quiet --disable-pip-version-check -c constraints.txt torch llama-cpp-python
"$python" -m pip install --quiet --disable-pip-version-check --constraint "$folder/oldest.txt" .
cd "$folder"
"$python" - <<'PROGRAM'
import importlib
import pkgutil

import lieq_edge

names = [module.name for module in pkgutil.walk_packages(lieq_edge.__path__, "lieq_edge.")]
for name in names:
    if not name.endswith(("__main__", "serve")):  # these start a program
        importlib.import_module(name)
print(f"{len(names)} modules import")
PROGRAM
