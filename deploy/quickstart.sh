#!/usr/bin/env bash
# From a fresh Debian 12 to 1,797 digits classified through a ringlaunch daemon; see usage() below.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bash deploy/quickstart.sh [--keep]

Installs what is missing, starts a daemon and runs examples/digits.py through it:
  1. Debian packages to build with (apt-get, as root or through sudo; says which; none if all are there)
  2. a virtual environment in .venv, or in $RINGLAUNCH_VENV
  3. the package, with daemon and client (pip install .; skipped while the sources have not changed)
  4. a daemon on a socket of this checkout's own, for the time of the run; stops one that an earlier run kept there
  5. examples/digits.py, whose exit code this script gives

  --keep    leaves the daemon running and says what to try next
  --help    this text

It can be run again at any time: what is there is not done twice. $RINGLAUNCH_PYTHON names the interpreter that
the virtual environment is made of (3.11 or later; else python3).
TEXT
}

keep=no
for argument in "$@"; do
    case $argument in
        --keep) keep=yes ;;
        -h | --help) usage && exit 0 ;;
        *) usage >&2 && exit 2 ;;
    esac
done

# shellcheck source=deploy/machine.sh
source "$(dirname "${BASH_SOURCE[0]}")/machine.sh"
LOG=$ROOT/build/logs/quickstart.log
DAEMON_LOG=$ROOT/build/logs/quickstart-daemon.log
daemon_pid=

# A folder of this user alone, short enough for a socket's path.
socket_folder() {
    local folder=/tmp/ringlaunch-$EUID
    [[ -n ${XDG_RUNTIME_DIR:-} && -O ${XDG_RUNTIME_DIR:-} ]] && folder=$XDG_RUNTIME_DIR/ringlaunch
    [[ -d $folder ]] || mkdir -m 700 "$folder" || return
    [[ -O $folder && ! -L $folder ]] ||
        die "the folder $folder, where the socket is to stand, belongs to somebody else: remove it, or set XDG_RUNTIME_DIR"
    printf '%s\n' "$folder"
}

stop_daemon() {
    "$VENV/bin/ringlaunchd" stop --socket "$socket" >>"$LOG" 2>&1
}

# A daemon that an earlier run kept may be of older sources.
stop_kept_daemon() {
    local rc=0
    "$VENV/bin/ringlaunchd" status --socket "$socket" >>"$LOG" 2>&1 || rc=$?
    ((rc == 3)) && return 0  # there is none
    step "stopping the daemon that an earlier run left at $socket" \
        "stop it by hand: $VENV/bin/ringlaunchd stop --socket $socket" stop_daemon
}

start_daemon() {
    local tries
    setsid "$VENV/bin/ringlaunchd" serve --driver host --socket "$socket" >"$DAEMON_LOG" 2>&1 </dev/null &
    daemon_pid=$!
    for ((tries = 0; tries < 200; ++tries)); do
        "$VENV/bin/ringlaunchd" status --socket "$socket" >>"$LOG" 2>&1 && return 0
        kill -0 "$daemon_pid" 2>/dev/null || break
        sleep 0.1
    done
    printf 'what the daemon wrote (%s):\n' "$DAEMON_LOG"
    cat "$DAEMON_LOG"
    return 1
}

# Whatever ends this script ends the daemon that it started.
clean_up() {
    local rc=$?
    if [[ -n $daemon_pid ]] && kill -0 "$daemon_pid" 2>/dev/null; then
        printf '==> stopping the daemon\n'
        stop_daemon || kill "$daemon_pid" 2>/dev/null || true
        wait "$daemon_pid" 2>/dev/null || true
    fi
    exit "$rc"
}

start_log
mapfile -t python < <(python_packages)
need_packages "${BUILD_PACKAGES[@]}" "${python[@]}"
need_venv
need_package
need_extras examples

# One for each checkout, so that two of them leave each other's daemon alone.
socket=$(socket_folder)/quickstart-$(printf '%s' "$ROOT" | cksum | cut -d ' ' -f 1).sock
stop_kept_daemon
ON_EXIT=clean_up
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
step "starting the daemon at $socket" \
    "$VENV/bin/ringlaunchd doctor says what this machine lacks" start_daemon

printf '==> running examples/digits.py\n'
rc=0
watchdog 300 "$VENV/bin/python" "$ROOT/examples/digits.py" --socket "$socket" || rc=$?
if ((rc != 0)); then
    printf 'quickstart.sh: examples/digits.py failed (exit code %d)' "$rc" >&2
    ((rc == 124)) && printf ': it was stopped after 300 s' >&2
    printf '.\nWhat to do: see what it printed above and what the daemon wrote: %s\n' "$DAEMON_LOG" >&2
    exit "$rc"
fi

if [[ $keep == yes ]]; then
    daemon_pid=
    cat <<TEXT

The daemon goes on running. What to try next:
  source "$VENV/bin/activate" && export RINGLAUNCH_SOCKET=$socket
  ringlaunchd status
  python examples/digits.py                   # in another terminal: ringlaunchd stats --watch
  python examples/digits.py --wrong-weight    # the comparison finds it
  ringlaunchd stop
TEXT
fi
