#!/usr/bin/env bash
# Builds .venv at the repository's root: pinned dependencies, and all distributions in editable form.
#
# Called by `make setup`. What the machine lacks is installed through apt-get where that is possible (root on Debian),
# and named together with the command to run where it is not.
#   PYTHON       the interpreter to build the environment from (default: the first of 3.11 to 3.13 found)
#   CUDA_WHEELS  yes, no or auto (default): the CUDA compiler and headers as wheels; auto asks for them where nvcc is
#                missing, and always when CI is set, so that both ways are tested there
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
constraints=requirements/constraints.txt

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        supported "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of version 3.11, 3.12 or 3.13."
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11; do
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "Tilewright needs Python 3.11, 3.12 or 3.13 and found none." \
        "Install one, or name it: make setup PYTHON=/path/to/python3"
}

# apt_install PACKAGE...: false where there is no apt-get or no right to use it.
apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    echo "setup: installing $* through apt-get"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# The linker that turns generated code into a shared library, and the compiler of the C++ loading test.
need_cxx() {
    command -v g++ >/dev/null && return
    apt_install g++ && command -v g++ >/dev/null && return
    fail "a C++ compiler is needed: generated CPU code is linked with it." "As root: apt-get install g++"
}

# What assembles code for AMD GPUs, with the tools that its tests read code objects with. Where Debian has none, these
# tests say what is missing.
want_rocm() {
    if command -v ld.lld-22 >/dev/null && command -v llvm-readelf-22 >/dev/null &&
        [ -f /usr/lib/x86_64-linux-gnu/amdgcn/bitcode/ocml.bc ]; then
        return
    fi
    apt_install lld-22 llvm-22 rocm-device-libs ||
        echo "setup: code for ROCm needs, as root on Debian: apt-get install lld-22 llvm-22 rocm-device-libs"
}

have_nvcc() {
    command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-${CUDA_PATH:-/usr/local/cuda}}/bin/nvcc" ]
}

want_cuda_wheels() {
    case "${CUDA_WHEELS:-auto}" in
    yes) true ;;
    no) false ;;
    auto) [ -n "${CI:-}" ] || ! have_nvcc ;;
    *) fail "CUDA_WHEELS is '$CUDA_WHEELS'; it can be yes, no or auto." ;;
    esac
}

# Debian keeps ensurepip, which `python -m venv` calls, in a package of its own.
make_venv() {
    local python=$1
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        apt_install python3-venv || true
    fi
    rm -rf "$venv"
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv "$venv"
    elif "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --without-pip "$venv"
        "$python" -m pip --python "$venv/bin/python" install --quiet -c "$constraints" pip
    else
        fail "$python can make no virtual environment: it has neither ensurepip nor pip." \
            "As root: apt-get install python3-venv"
    fi
}

python=$(find_python)
need_cxx
want_rocm
supported "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv "$python"

backends=backends
want_cuda_wheels && backends="backends[cuda]"

echo "setup: installing the pinned dependencies into $venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check install --quiet -c "$constraints")
"${pip[@]}" pip # first: older ones know no dependency groups
"${pip[@]}" --group build
"${pip[@]}" --no-build-isolation --group dev \
    -e core -e "$backends" -e plugins/roller -e plugins/welder -e plugins/grinder -e plugins/rammer -e '.[benchmarks]'
"$venv/bin/python" -m pip check >/dev/null || fail "$("$venv/bin/python" -m pip check)"
touch "$venv/.ready"
echo "setup: done; activate it with  . $venv/bin/activate"
