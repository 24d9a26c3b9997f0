# Sourced by scripts/demo and scripts/test: makes the client venv .venv with scalems in it.
# shellcheck shell=bash

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Install Debian packages if we may, else name the command that does it.
apt_install() {
    local command="apt-get install -y --no-install-recommends $*"
    if ! command -v apt-get >/dev/null; then
        die "please install: $*"
    elif [ "$(id -u)" -eq 0 ]; then
        say "installing $*"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive $command -qq; } >/dev/null \
            || die "could not run: $command"
    else
        die "please run: sudo $command"
    fi
}

# The same, for what only some tests need: those are skipped without it.
apt_wish() {
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        apt_install "$@"
    else
        say "without $*, some tests are skipped: sudo apt-get install $*"
    fi
}

find_python() {
    local name
    for name in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10; do
        if "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
            2>/dev/null; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    die "no Python 3.10 to 3.13 found; install one, or name it with PYTHON=/path/to/python3"
}

# make_venv FOLDER EXTRAS: afterwards FOLDER has scalems[EXTRAS] of this checkout, editable.
# Nothing is done if pyproject.toml, the lock and the Python are what they were.
make_venv() {
    local venv=$1 extras=$2 python stamp
    python=$(find_python) || exit 1
    stamp="$("$python" -V) $python $extras $(pwd) $(cat pyproject.toml envs/pilot.lock.txt | cksum)"
    if [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$stamp" ] && "$venv/bin/python" -c '' 2>/dev/null
    then
        return
    fi
    # radical.utils needs netifaces, which is built from source.
    command -v cc >/dev/null || apt_install gcc libc6-dev
    if ! "$python" -c 'import sysconfig, os, sys
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'; then
        apt_install "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-dev"
    fi
    "$python" -c 'import ensurepip' 2>/dev/null \
        || apt_install "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    say "making the client venv $venv with $("$python" -V)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
    # The client in the versions of the committed locks, so that they are current here.
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --editable ".[$extras]" \
        --constraints envs/pilot.lock.txt
    printf '%s' "$stamp" >"$venv/.stamp"
}
