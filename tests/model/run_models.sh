#!/usr/bin/env bash
# Runs the spin models, and each of their mutants, which must fail: run_models.sh [--quick] [folder for the verifiers].
# --quick leaves out the largest state spaces (that of a restart, unmutated).
# Exit codes: 0 all as it must be, 1 not, 77 spin or a C compiler is missing.
set -u

here=$(cd "$(dirname "$0")" && pwd)
quick=0
if [ "${1:-}" = --quick ]; then
    quick=1
    shift
fi
if [ $# -gt 0 ]; then
    work=$1
    mkdir -p "$work"
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi

for tool in spin gcc; do
    if ! command -v "$tool" >/dev/null; then
        echo "SKIPPED: $tool is not installed; on Debian and Ubuntu: apt-get install $tool"
        exit 77
    fi
done

failed=0

# run <model> <flags>: prints "errors states" of the verifier, or "broken" and its words.
run() {
    local model=$1 flags=$2 folder
    folder=$work/$model$(tr -d ' ' <<<"$flags")
    mkdir -p "$folder"
    (
        cd "$folder" || exit 1
        # shellcheck disable=SC2086
        spin $flags -a "$here/$model.pml" >spin.log 2>&1 || exit 1
        gcc -O1 -w -DSAFETY -DNOREDUCE -DVECTORSZ=2048 -DMEMLIM=4096 -DCOLLAPSE -o pan pan.c >gcc.log 2>&1 || exit 1
        # -E: an end is judged by the model itself (judge), not by where each process stands.
        timeout 600 ./pan -E -m400000 >pan.log 2>&1 || exit 1
    )
    local log=$folder/pan.log
    if [ ! -s "$log" ] || grep -q "max search depth too small\|out of memory\|pan: reached\|Search not completed" "$log" &&
        ! grep -q "errors: 1" "$log"; then
        echo "broken (see $folder)"
        return
    fi
    sed -nE 's/.*errors: ([0-9]+).*/\1/p' "$log" | tr '\n' ' '
    sed -nE 's/ *([0-9.e+]+) states, stored.*/\1/p' "$log" | head -1
}

# Each check runs by itself, as many at a time as there are processors; the verdicts come in the order of the list.
checks=()
holds() { checks+=("holds|$1|$2"); }                  # <model> <flags>
fails() { checks+=("fails|$1|-D$2${3:+ $3}"); }       # <model> <mutant> <other flags>

# verdict <check>: what is found, as a line; 1: not as it must be.
verdict() {
    local what model flags errors states
    IFS='|' read -r what model flags <<<"$1"
    read -r errors states <<<"$(run "$model" "$flags")"
    if [ "$what" = holds ]; then
        if [ "$errors" = 0 ]; then
            printf '%-6s %-46s holds in all %s states\n' "$model" "${flags:-(as it is)}" "$states"
            return
        fi
        printf '%-6s %-46s DOES NOT HOLD: %s %s\n' "$model" "${flags:-(as it is)}" "$errors" "$states"
        return 1
    fi
    local mutant=${flags%% *} others
    others=${flags#"$mutant"}
    if [[ $errors =~ ^[1-9] ]]; then
        printf 'mutant %-34s caught by %s.pml%s\n' "${mutant#-D}" "$model" "$others"
        return
    fi
    printf 'mutant %-34s NOT CAUGHT by %s.pml%s: %s %s\n' "${mutant#-D}" "$model" "$others" "$errors" "$states"
    return 1
}

# The large ones first.
if [ $quick = 0 ]; then
    holds sleep "-DRESTART"
    holds sleep "-DRESTART -DFENCES"
fi
holds sleep ""
holds sleep "-DFENCES"
holds sleep "-DDEVICE"
holds sleep "-DDEVICE -DFENCES"
for mutant in DEAD_PAGE_NOT_MARKED DEAD_PAGE_MARKED_AS_A_SLEEP RUNG_WITHOUT_ITS_PAGE NEXT_READER_NO_FIRST_LOOK NO_NOTICE; do
    fails sleep $mutant "-DRESTART"
done
for mutant in PRODUCER_NO_LOOK PRODUCER_LOOKS_FIRST READER_NO_ANNOUNCEMENT READER_ANNOUNCES_LATE READER_NO_BARRIER \
    READER_FENCES_ONLY_ITSELF READER_NO_SECOND_LOOK READER_TAKES_EDGES_LATE WAITER_NO_SECOND_LOOK \
    WAITER_DRAINS_LATE SECOND_LOOK_WITHOUT_WAITERS PRODUCER_RINGS_ONCE SLEEPS_WITHOUT_NUMBERS; do
    fails sleep $mutant ""
done
for mutant in WAITER_NO_DOORBELL READER_NO_NOTIFICATION; do
    fails sleep $mutant "-DDEVICE"
done
for mutant in PRODUCER_NO_FENCE WAITER_NO_FENCE; do
    fails sleep $mutant "-DFENCES"
done
holds ring ""
for mutant in HEAD_RELAXED STAMP_FIRST PEEK_RELAXED COMPLETED_EARLY ONE_SLOT_MORE ONE_LAP_MORE LAPLESS_STAMP NO_PADDING_ROOM \
    RESTART_AT_ISSUED; do
    fails ring $mutant ""
done

processors=$(nproc)
pids=()
for i in "${!checks[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$processors" ]; do wait -n; done
    verdict "${checks[i]}" >"$work/verdict.$i" &
    pids+=($!)
done
for i in "${!checks[@]}"; do
    wait "${pids[i]}" || failed=1
    cat "$work/verdict.$i"
done

exit $failed
