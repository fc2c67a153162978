#!/usr/bin/env bash
# From nothing to a chatting model: install, export the demo model under a budget, validate it, ask it something.
#   tools/demo.sh [OUT.gguf]
# Needs bash (Linux, macOS, WSL).
# LIEQ_BUDGET sets the budget (default below), LIEQ_VENV the virtual environment (default .venv).
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
out="${1:-demo.gguf}"
budget="${LIEQ_BUDGET:-3.0}"

echo "== Install (the first time llama-cpp-python is compiled: several minutes)"
install_project ""
echo "== Export"
"$VENV/bin/lieq-edge" export demo --budget "$budget" --calibration docs --out "$out" --force
echo "== Inspect"
"$VENV/bin/lieq-edge" inspect "$out"
echo "== Validate again, as anyone can"
"$VENV/bin/lieq-edge" validate "$out" --chunks 8
echo "== A short answer from the file"
"$VENV/bin/python" - "$out" <<'PROGRAM'
import sys

from llama_cpp import Llama

question = "What is the capital of France?"
model = Llama(sys.argv[1], n_ctx=512, verbose=False)
answer = model.create_chat_completion([{"role": "user", "content": question}], max_tokens=48, temperature=0.0)
print(f"{question}\n{answer['choices'][0]['message']['content'].strip()}")
PROGRAM
