#!/usr/bin/env bash
# Make a small file and open it with the programs that people use: a line for each says passed, skipped or failed.
#   tools/clients.sh [FOLDER]
# FOLDER (default: lieq-clients in the folder for temporary files) holds the file, the logs, and what is installed, which
# the next run uses again. The project must be installed with its test extra, and the demo model (tools/test.sh does both):
# LIEQ_VENV names that virtual environment (default .venv). Programs of npm need Node.js 20, and all need the network once.
# Needs bash (Linux, macOS, WSL). Ends with 1 if a program failed; one that cannot be had here is skipped.
set -uo pipefail
cd "$(dirname "$0")/.."
venv="$(cd "${LIEQ_VENV:-.venv}" && pwd)" || exit 2
folder="${1:-${TMPDIR:-/tmp}/lieq-clients}"
mkdir -p "$folder/logs" && folder="$(cd "$folder" && pwd)" || exit 2
clients="$PWD/tools/clients"
failed=0

# step NAME COMMAND...: run it with its output in a log; exit code 77 means skipped, and its last line says why.
step() {
    local name="$1" log="$folder/logs/${1//[^a-zA-Z0-9]/-}.log" code
    shift
    "$@" > "$log" 2>&1
    code=$?
    case $code in
        0) echo "$name: passed ($(tail -n 1 "$log" | cut -c 1-160))" ;;
        77) echo "$name: skipped ($(tail -n 1 "$log" | cut -c 1-160))" ;;
        *) failed=1; echo "$name: failed (exit code $code, see $log)" ;;
    esac
}

skip() {
    echo "$1"
    exit 77
}

# Each of these runs in a subshell by `step`.
export_file() (
    set -e
    # Made anew each time: the file is what is tested.
    rm -f "$folder"/*.gguf
    cd "$folder"
    export_demo() {
        "$venv/bin/lieq-edge" export demo --budget 90MB --metric geometry --rounding imatrix --calibration docs --no-validate "$@"
    }
    export_demo
    # By default rows that no K-quant fits take IQ4_NL, which mistral.rs does not read.
    export_demo --types portable --out portable.gguf
    ls "$folder"/*.gguf
)

gguf_tools() (
    set -e
    "$venv/bin/gguf-dump" --json "$file" > "$folder/dump.json"
    "$venv/bin/gguf-new-metadata" --force --general-name "Renamed" "$file" "$folder/renamed.new"
    mv "$folder/renamed.new" "$folder/renamed.gguf"
    "$venv/bin/python" "$clients/compare.py" "$file" "$folder/renamed.gguf" --name Renamed
)

split_and_merge() (
    set -e
    command -v llama-gguf-split > /dev/null || skip "llama-gguf-split is not installed"
    rm -f "$folder"/part-*.gguf "$folder/merged.gguf"
    llama-gguf-split --split --split-max-tensors 100 "$file" "$folder/part"
    llama-gguf-split --merge "$folder"/part-00001-of-*.gguf "$folder/merged.gguf"
    "$venv/bin/python" "$clients/compare.py" "$file" "$folder/merged.gguf"
)

# node_package PACKAGE: install it below the folder, unless it is there.
node_package() {
    command -v npm > /dev/null || skip "npm is not installed"
    [ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ] || skip "Node.js 20 or newer is needed"
    mkdir -p "$folder/node"
    [ -f "$folder/node/package.json" ] || echo '{"private": true}' > "$folder/node/package.json"
    [ -d "$folder/node/node_modules/$1" ] && return
    # Without optional packages, which are builds for many GPUs.
    npm install --prefix "$folder/node" --no-audit --no-fund --ignore-scripts --omit=optional "$1" \
        || skip "npm cannot install $1"
}

# Programs look for their packages from where they lie.
node_program() {
    cp "$clients/$1" "$folder/node/"
    shift
    node "$folder/node/$@"
}

hub_parser() (
    node_package @huggingface/gguf
    node_program huggingface.mjs huggingface.mjs "$file" "$label"
)

node_llama() (
    node_package node-llama-cpp
    version="$(node -p "require('$folder/node/node_modules/node-llama-cpp/package.json').version")"
    platform="$(node -p "({darwin: 'mac', win32: 'win'}[process.platform] ?? process.platform) + '-' + process.arch + (process.platform === 'darwin' && process.arch === 'arm64' ? '-metal' : '')")"
    node_package "@node-llama-cpp/$platform@$version"
    node_program node_llama.mjs node_llama.mjs "$file"
)

in_transformers() (
    # transformers reads GGUF files with this package alone, whose dependencies are here.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target "$folder/python" \
        accelerate || skip "pip cannot install accelerate"
    PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$folder/python" "$venv/bin/python" "$clients/in_transformers.py" "$file"
)

in_browser() (
    browser="$(command -v chromium || command -v chromium-browser || command -v google-chrome)" || skip "chromium is not installed"
    "$venv/bin/python" -c "import playwright" 2> /dev/null || skip "playwright is not installed (test extra)"
    node_package @wllama/wllama
    cp "$clients/wllama.html" "$folder/node/"
    "$venv/bin/python" "$clients/browser.py" "$browser" "$folder/node" "$file"
)

mistral() (
    if [ ! -x "$folder/mistral/bin/python" ]; then
        "$venv/bin/python" -m venv "$folder/mistral" || skip "no virtual environment can be made"
    fi
    "$folder/mistral/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: mistralrs \
        || skip "pip finds no mistralrs for this machine"
    "$folder/mistral/bin/python" "$clients/in_mistralrs.py" "$folder/portable.gguf"
)

step "lieq-edge export" export_file
file="$(ls "$folder"/*-*.gguf 2> /dev/null | head -n 1)"
if [ $failed = 1 ] || [ -z "$file" ]; then
    echo "There is no file to open."
    exit 1
fi
label="${file##*-}"
label="${label%.gguf}"
step "gguf-dump, gguf-new-metadata" gguf_tools
step "llama-gguf-split" split_and_merge
step "@huggingface/gguf" hub_parser
step "node-llama-cpp" node_llama
step "transformers" in_transformers
step "@wllama/wllama" in_browser
step "mistral.rs" mistral
exit $failed
