#!/usr/bin/env bash
# Run GGUF files in llama.cpp on ARM64, which qemu emulates, and compare with this machine: a line for each run says
# passed, skipped or failed, and the script ends with 1 if one failed.
#   tools/arm.sh [demo | FILE.gguf ...]
# Without a file tiny models of all types are run. The first time llama.cpp is built from the source package of the
# llama-cpp-python of constraints.txt, which takes about ten minutes and the network; the result stays in LIEQ_ARM_DIR
# (default: lieq-edge-arm in the user's folder for caches). The project must be installed with its test extra:
# LIEQ_VENV names that virtual environment (default .venv). Needs Linux; root is not needed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="$(cd "${LIEQ_VENV:-.venv}" && pwd)" || exit 2
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$PWD:$PWD/tests"
program="$("$venv/bin/python" -m tools.arm.folder)"
folder="$(dirname "$(dirname "$program")")"
version="$(basename "$folder")"

need() {
    local missing=""
    for pair in "$@"; do
        command -v "${pair%%:*}" > /dev/null || missing="$missing ${pair##*:}"
    done
    [ -z "$missing" ] || { echo "Packages are missing: apt-get install$missing" >&2; exit 2; }
}

build_libraries() {
    local work="$folder/work"
    rm -rf "$work" && mkdir -p "$work"
    # The package and its hash as an install has them.
    awk '/^[^ ]/ {found = /^llama-cpp-python==/} found' requirements-hashed.txt > "$work/requirement.txt"
    "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python \
        --require-hashes --dest "$work" --requirement "$work/requirement.txt"
    tar -xf "$work/llama_cpp_python-$version.tar.gz" -C "$work"
    local source="$work/llama_cpp_python-$version/vendor/llama.cpp"
    # Kernels for three processors, of eight: those that tools/arm/runs.py emulates.
    sed -i '/ggml_add_cpu_backend_variant(armv/{/(armv8.0_1)\|(armv8.2_2 \|(armv8.6_1 /!d}' "$source/ggml/src/CMakeLists.txt"
    # It computes nothing that takes time, and builds in half the time so.
    echo 'target_compile_options(llama PRIVATE -O1)' >> "$source/src/CMakeLists.txt"
    cmake -S "$source" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
        -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
        -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
        -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON -DGGML_OPENMP=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF
    cmake --build "$work/build" --target llama
    rm -rf "$folder/bin" "$folder/include" && mkdir -p "$folder/include"
    cp "$source"/include/*.h "$source"/ggml/include/*.h "$folder/include"
    # Last and at once: its presence says that the build is complete.
    mkdir "$work/bin" && cp -P "$work"/build/bin/*.so* "$work/bin" && mv "$work/bin" "$folder/bin"
    rm -rf "$work"
}

need qemu-aarch64-static:qemu-user-static
if [ ! -x "$program" ]; then
    need aarch64-linux-gnu-g++:g++-aarch64-linux-gnu cmake:cmake ninja:ninja-build
    if [ ! -d "$folder/bin" ]; then
        mkdir -p "$folder"
        echo "Building llama.cpp of llama-cpp-python $version for ARM64; the log is $folder/build.log." >&2
        set +e
        (set -e; build_libraries) > "$folder/build.log" 2>&1
        code=$?
        set -e
        [ $code = 0 ] || { tail -n 5 "$folder/build.log" >&2; exit 2; }
    fi
    aarch64-linux-gnu-g++ -std=c++17 -O1 -Wall -Wextra -I"$folder/include" tools/arm/run.cpp -o "$program.new" \
        -L"$folder/bin" -Wl,-rpath,'$ORIGIN' -lllama -lggml -lggml-base
    mv "$program.new" "$program"
fi
exec "$venv/bin/python" -m tools.arm "$@"
