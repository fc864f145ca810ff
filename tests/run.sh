#!/usr/bin/env bash
# Sets up what the tests need, builds, runs them and counts; see usage() below.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bash tests/run.sh [PART...]

Parts, run in this order; all of them if none is named:
  lint     clang-format, ruff check, ruff format
  cpp      the C++ tests (preset release); each C++ source read by itself
  python   the package, installed; the tests in Python, the command line and the examples among them
  model    the spin models of the ring, and their mutants
  asan     the C++ tests under the address and undefined behaviour sanitizers (preset asan)
  tsan     the C++ tests under the thread sanitizer (preset tsan)

Installs missing Debian packages (as root or through sudo), and Python packages into .venv, or $RINGLAUNCH_VENV.
Every part has a time limit. Logs: build/logs/tests-PART.log. Exit code 0 only if every part passed.
TEXT
}

parts=()
for argument in "$@"; do
    case $argument in
        lint | cpp | python | model | asan | tsan) parts+=("$argument") ;;
        all) parts=() ;;
        -h | --help) usage && exit 0 ;;
        *) usage >&2 && exit 2 ;;
    esac
done
((${#parts[@]})) || parts=(lint cpp python model asan tsan)
wanted() { [[ " ${parts[*]} " == *" $1 "* ]]; }

# shellcheck source=deploy/machine.sh
source "$(dirname "${BASH_SOURCE[0]}")/../deploy/machine.sh"
cd "$ROOT"
LOGS=$ROOT/build/logs
RESULTS=$ROOT/build/test-results
LOG=$LOGS/tests-setup.log
LOG_TAIL_LINES=200
JOBS=$(nproc)
rm -rf "$RESULTS"
mkdir -p "$RESULTS"
# Tests start daemons of their own.
unset RINGLAUNCH_SOCKET RINGLAUNCHD

# ---- the parts; each gives non-zero if it failed, and leaves JUnit files RESULTS/PART-*.xml ------------------

# check NAME ADVICE COMMAND...: a check that is no test runner, as one result.
check() {
    local name=$1 rc=0 verdict=
    step "$name" "${@:2}" || rc=$?
    ((rc == 0)) || verdict='<failure/>'
    printf '<testsuite><testcase name="%s">%s</testcase></testsuite>\n' "$name" "$verdict" \
        >"$RESULTS/$part-${name// /-}.xml"
    return "$rc"
}

# What a failed test runner shows: the names of the tests that failed and what each printed. One that left no results
# died or was ended: the end of its log.
failed_tests() {
    local files=("$RESULTS/$part"-*.xml)
    [[ -s ${files[0]} ]] || { log_tail && return; }
    printf 'Of all tests: %s\n\n' "$LOG"
    "$PYTHON" tests/count_results.py --output "${files[@]}" | sed 's/^/    | /'
}

# Names the files that clang-format would change.
clang_format() {
    local sources verdict
    mapfile -t sources < <(git ls-files '*.cpp' '*.hpp' '*.h' '*.cu')
    verdict=$(watchdog 120 clang-format --dry-run -Werror "${sources[@]}" 2>&1) && return 0
    sed -n 's/^\([^ :]*\):[0-9].*/\1/p' <<<"$verdict" | uniq -c
    return 1
}

run_lint() {
    local rc=0
    check "clang-format" "run clang-format -i (version 14, Debian 12's) on the files named" clang_format || rc=1
    check "ruff check" "run ruff check --fix . and mend the rest" watchdog 120 "$VENV/bin/ruff" check . || rc=1
    check "ruff format" "run ruff format ." watchdog 120 "$VENV/bin/ruff" format --check . || rc=1
    return "$rc"
}

# ctest_preset PRESET CMAKE_OPTION...
ctest_preset() {
    local preset=$1 here=()
    shift
    # The thread sanitizer of g++ 12 cannot place its shadow where addresses are random in more than 28 bits.
    if [[ $preset == tsan ]] && (($(sysctl -n vm.mmap_rnd_bits 2>/dev/null || echo 28) > 28)); then
        here=(setarch -R)
    fi
    step "$preset: configuring" "the log says what cmake did not find" \
        watchdog 300 cmake --preset "$preset" "$@" || return
    step "$preset: building" "mend what the compiler says, then: bash tests/run.sh $part" \
        watchdog 2400 "${here[@]}" cmake --build --preset "$preset" -j "$JOBS" || return
    SHOW_FAILURE=failed_tests step "$preset: running the C++ tests" "one test alone: ctest --preset $preset -R NAME" \
        watchdog 1800 "${here[@]}" ctest --preset "$preset" -j "$JOBS" --timeout 300 --no-tests=error \
        --exclude-regex '^spin_models$' --output-junit "$RESULTS/$part-ctest.xml"  # those are the part `model`
}

# A build that compiles several sources as one hides what one of them forgets to include.
each_source() { watchdog 900 "$PYTHON" tests/each_source.py build/release/compile_commands.json "$JOBS"; }

run_cpp() {
    ctest_preset release || return
    check "each source by itself" "add the includes that the compiler misses, then: bash tests/run.sh $part" each_source
}
run_asan() { ctest_preset asan -DRINGLAUNCH_BENCH=OFF; }
run_tsan() { ctest_preset tsan -DRINGLAUNCH_BENCH=OFF; }

run_python() {
    need_package || return
    SHOW_FAILURE=failed_tests step "python: running the tests" "one test alone: $VENV/bin/python -m pytest -k NAME" \
        watchdog 1800 "$VENV/bin/python" -m pytest tests \
        -o faulthandler_timeout=120 -o junit_logging=all -o junit_log_passing_tests=false \
        --junitxml "$RESULTS/$part-pytest.xml"
}

# Each property that holds and each mutant that is caught counts as a test.
run_model() {
    local rc=0
    step "model: running the spin models and their mutants" \
        "a property that does not hold, or a mutant that is not caught, is a mistake in the model or in schema/" \
        watchdog 900 bash tests/model/run_models.sh || rc=$?
    grep -E '^(sleep|ring|mutant) ' "$LOG" | sed 's/^/    /'
    {
        printf '<testsuite>\n'
        sed -nE -e 's/^(ring|sleep) +(.*[^ ]) +holds in all .*/<testcase name="\1 \2"\/>/p' \
            -e 's/^mutant ([A-Z_]+) +caught by ([a-z.]+).*/<testcase name="\2 \1"\/>/p' \
            -e 's/^(ring|sleep) +(.*[^ ]) +DOES NOT HOLD.*/<testcase name="\1 \2"><failure\/><\/testcase>/p' \
            -e 's/^mutant ([A-Z_]+) +NOT CAUGHT by ([a-z.]+).*/<testcase name="\2 \1"><failure\/><\/testcase>/p' "$LOG"
        printf '</testsuite>\n'
    } >"$RESULTS/model-spin.xml"
    return "$rc"
}

# ---- setting up ----------------------------------------------------------------------------------------------

start_log
packages=("${BUILD_PACKAGES[@]}" ccache git)
wanted lint && packages+=(clang-format)
wanted cpp && packages+=(libbenchmark-dev)
if wanted cpp || wanted asan || wanted tsan; then packages+=(libgtest-dev libgmock-dev); fi
wanted model && packages+=(spin gcc libc6-dev)
mapfile -t python < <(python_packages)
need_packages "${packages[@]}" "${python[@]}"
if wanted python || wanted lint; then
    need_venv
    need_extras test
    export PATH=$VENV/bin:$PATH
fi

# ---- running and counting --------------------------------------------------------------------------------------

table='' failures=''
all_passed=0 all_failed=0 all_skipped=0
for part in "${parts[@]}"; do
    LOG=$LOGS/tests-$part.log
    start_log
    begin=$SECONDS rc=0 FAILED_STEP=''
    printf '\n---- %s ----\n' "$part"
    "run_$part" || rc=$?
    files=("$RESULTS/$part"-*.xml)
    counted='0 0 0'
    if [[ -e ${files[0]} ]]; then counted=$("$PYTHON" tests/count_results.py "${files[@]}"); fi
    read -r passed failed skipped <<<"$counted"
    # A part that failed has at least one failure: what was to be tested did not even build, or hung.
    ((rc == 0 || failed > 0)) || { failed=1 && counted+=$'\n'"failed: ${FAILED_STEP:-$part}"; }
    # One that passed has tested something.
    ((rc != 0 || passed + failed + skipped > 0)) || { failed=1 && counted+=$'\n'"failed: $part ran no test"; }
    tail -n +2 <<<"$counted" | sed 's/^/    /'
    ((failed == 0)) || failures+=$(grep '^failed: ' <<<"$counted" | sed "s/^failed:/$part:/")$'\n'
    table+=$(printf '%-8s %7d %7d %8d %7d s' "$part" "$passed" "$failed" "$skipped" $((SECONDS - begin)))$'\n'
    ((all_passed += passed, all_failed += failed, all_skipped += skipped, 1))
done

printf '\n%-8s %7s %7s %8s %9s\n%s\n' part passed failed skipped time "$table"
((all_failed == 0)) || printf 'What failed:\n%s\n' "$failures"
printf '%d passed, %d failed, %d skipped\n' "$all_passed" "$all_failed" "$all_skipped"
((all_failed == 0 && all_passed > 0))
