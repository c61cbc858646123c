#!/usr/bin/env bash
# Makes .venv, or mends it, and installs Trilane with everything that the Makefile's targets use.
#
# Usage: scripts/setup_venv.sh STAMP
# STAMP is written last, so an installation that was cut short is taken up again by the next call.
set -euo pipefail
cd "$(dirname "$0")/.."
stamp=$1
log=.venv/install.log

is_suitable() { # the interpreter runs (a version switcher's shim may not), is of a supported version, makes environments
    "$@" -c 'import sys, venv, ensurepip, sqlite3, ssl; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
        >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if is_suitable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    if [ -n "${PYTHON:-}" ]; then
        echo "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13 that can make environments." >&2
    else
        echo "Trilane needs Python 3.11, 3.12 or 3.13 with its venv module, and found none on the PATH." >&2
    fi
    echo "Install one (on Debian and Ubuntu: apt-get install python3 python3-venv), or name it:" >&2
    echo "    make $(basename "${MAKE_TARGET:-test}") PYTHON=/path/to/python3" >&2
    return 1
}

# Turns pip's narrative into one line that is overwritten on a terminal; silent elsewhere.
show_progress() {
    if [ -t 2 ]; then
        awk '/^ *(Collecting|Downloading|Building|Installing|Obtaining)/ {
                 printf "\r\033[K  %.100s", $0 > "/dev/stderr" }
             END { printf "\r\033[K" > "/dev/stderr" }'
    else
        cat >/dev/null
    fi
}

install() {
    .venv/bin/python -m pip install --disable-pip-version-check --no-input -e '.[all]' 2>&1 |
        tee "$log" | show_progress
}

if ! is_suitable .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "Making .venv with $("$python" --version)" >&2
    "$python" -m venv --clear .venv
fi

echo "Installing Trilane and its tools into .venv (the first time takes a minute or two)" >&2
if ! install; then
    tail -n 20 "$log" >&2
    echo "The installation failed; the whole log is in $log. Run the same command to try again." >&2
    exit 1
fi
rm -f .venv/.stamp-*
touch "$stamp"
