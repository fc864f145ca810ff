# shellcheck shell=bash
# What quickstart.sh and tests/run.sh share: steps with a log, Debian packages, the virtual environment and the
# installed package. Sourced, not run; the caller sets LOG first. A caller with something to do at its end names
# that function in ON_EXIT.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${RINGLAUNCH_VENV:-$ROOT/.venv}
AT_TERMINAL=no
[[ ! -t 2 ]] || AT_TERMINAL=yes
# shellcheck disable=SC2034  # used by those that source this
BUILD_PACKAGES=(g++ cmake ninja-build libboost1.81-dev flatbuffers-compiler libflatbuffers-dev libcli11-dev
                libspdlog-dev libssl-dev nlohmann-json3-dev)

# Where ccache is there, builds in several folders and clones share what they compiled: the wheel takes over what
# preset release has built, as long as both call the compiler by the same name. What is new is not preprocessed
# once more to find that out.
export CCACHE_BASEDIR=$ROOT CCACHE_NOHASHDIR=1 CCACHE_DEPEND=1 CXX=${CXX:-c++}

start_log() {
    mkdir -p "$(dirname "$LOG")"
    : >"$LOG"
}

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# What a failed step shows: the end of what it wrote to the log.
log_tail() {
    printf 'The end of %s:\n\n' "$LOG"
    tail -c +"$log_from" "$LOG" | tail -n "${LOG_TAIL_LINES:-40}" | sed 's/^/    | /'
}

# step WHAT ADVICE COMMAND...: runs it with its output in the log and says how long it took. A failure shows the
# log's tail, or what the function named in SHOW_FAILURE prints, and the advice, and leaves WHAT in FAILED_STEP. Every
# 30 s a line says where a long one is.
step() {
    local what=$1 advice=$2 begin=$SECONDS rc=0 ticker log_from
    shift 2
    log_from=$(($(wc -c <"$LOG") + 1))
    printf '==> %s\n' "$what"
    printf '\n==> %s: %s\n' "$what" "$*" >>"$LOG"
    (
        while sleep 30 >/dev/null 2>&1; do
            printf '    %d s: %.100s\n' $((SECONDS - begin)) "$(grep -v '^$' "$LOG" | tail -n 1)"
        done
    ) &
    ticker=$!
    # shellcheck disable=SC2064
    trap "kill $ticker 2>/dev/null; ${ON_EXIT:-:}" EXIT
    "$@" >>"$LOG" 2>&1 </dev/null || rc=$?
    { kill "$ticker" && wait "$ticker"; } 2>/dev/null || true
    # shellcheck disable=SC2064
    trap "${ON_EXIT:-:}" EXIT
    if ((rc == 0)); then
        printf '    done in %d s\n' $((SECONDS - begin))
        return 0
    fi
    # shellcheck disable=SC2034  # read by tests/run.sh
    FAILED_STEP=$what
    {
        printf '    FAILED after %d s (exit code %d). ' $((SECONDS - begin)) "$rc"
        "${SHOW_FAILURE:-log_tail}"
        printf '\n%s failed while %s.\nWhat to do: %s\n' "$(basename "$0")" "$what" "$advice"
    } >&2
    return "$rc"
}

# watchdog SECONDS COMMAND...: nothing runs for ever. At a terminal the command stays in the foreground, so that
# Ctrl-C reaches it; elsewhere its children end with it.
watchdog() {
    local limit=$1
    shift
    if [[ $AT_TERMINAL == yes ]]; then
        timeout --foreground --kill-after=20 "$limit" "$@"
    else
        timeout --kill-after=20 "$limit" "$@"
    fi
}

is_installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

apt_install() {
    local sudo=()
    ((EUID == 0)) || sudo=(sudo)
    "${sudo[@]}" apt-get -o DPkg::Lock::Timeout=300 update &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install \
            --yes --no-install-recommends "$@"
}

# need_packages NAME...: installs the Debian packages that are missing, and says which.
need_packages() {
    local missing=() name
    command -v dpkg-query >/dev/null ||
        die "this machine has no dpkg: the script is for Debian 12. Elsewhere install what corresponds to: $*"
    for name in "$@"; do is_installed "$name" || missing+=("$name"); done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)); then
        command -v sudo >/dev/null ||
            die "these Debian packages are missing, and installing them needs root or sudo: ${missing[*]}"
        sudo -v || die "these Debian packages are missing, and sudo was refused: ${missing[*]}"
    fi
    step "installing Debian packages: ${missing[*]}" \
        "check the network and /etc/apt/sources.list, then run the script again" \
        apt_install "${missing[@]}"
}

PYTHON=${RINGLAUNCH_PYTHON:-python3}

# The Debian packages that python3 lacks for a virtual environment and for building an extension. An interpreter
# that was named, or is not Debian's, has what it has.
python_packages() {
    [[ $PYTHON == python3 ]] || return 0
    if ! command -v python3 >/dev/null; then
        printf '%s\n' python3 python3-venv python3-dev
        return 0
    fi
    python3 -c 'import ensurepip' 2>/dev/null || printf 'python3-venv\n'
    python3 -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || printf 'python3-dev\n'
}

need_venv() {
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && return 0
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$PYTHON is $("$PYTHON" --version 2>&1), but the package needs Python 3.11 or later:" \
            "name one with RINGLAUNCH_PYTHON=/path/to/python3"
    [[ ! -e $VENV || -e $VENV/pyvenv.cfg ]] ||
        die "$VENV exists and is no virtual environment: name another with RINGLAUNCH_VENV, or move it away"
    step "making the virtual environment $VENV" \
        "remove $VENV and run the script again; RINGLAUNCH_PYTHON names another interpreter" \
        "$PYTHON" -m venv --clear "$VENV"
}

# What the installed package was built from: the sources and the interpreter.
source_stamp() {
    {
        "$VENV/bin/python" -VV
        cd "$ROOT" || return
        find CMakeLists.txt pyproject.toml README.md cmake schema client daemon python \
            -type f -not -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    } | sha256sum | cut -d' ' -f1
}

# `pip install .`, unless what is installed was built from these very sources.
need_package() {
    local stamp file=$VENV/.ringlaunch-sources
    stamp=$(source_stamp)
    if [[ -e $file && $(<"$file") == "$stamp" ]] && "$VENV/bin/python" -c 'import ringlaunch' 2>/dev/null; then
        printf '==> the installed package is of these sources\n'
        return 0
    fi
    rm -f "$file"
    step "building and installing the package (pip install .; some minutes the first time)" \
        "the log says what the compiler or pip did not find; once that is mended, run the script again" \
        watchdog 3000 "$VENV/bin/python" -m pip install --no-input --verbose "$ROOT" || return
    printf '%s\n' "$stamp" >"$file"
}

# need_extras NAME: the packages that pyproject.toml lists under that name.
need_extras() {
    local name=$1 file=$VENV/.ringlaunch-extras-$1 list names
    list=$("$VENV/bin/python" - "$ROOT/pyproject.toml" "$name" <<'PYTHON'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"][sys.argv[2]], sep="\n")
PYTHON
    ) || die "pyproject.toml lists no extras called $name"
    [[ -e $file && $(<"$file") == "$list" ]] && return 0
    mapfile -t names <<<"$list"
    step "installing Python packages: ${names[*]}" \
        "check the network; once pip reaches its index, run the script again" \
        watchdog 900 "$VENV/bin/python" -m pip install --no-input "${names[@]}" || return
    printf '%s\n' "$list" >"$file"
}
