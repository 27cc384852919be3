#!/usr/bin/env bash
# How fast, and for how many bytes, a cluster becomes the same everywhere again: measured, and printed
# as a table.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
export DEV_CLUSTER_DIR=${DEV_CLUSTER_DIR:-${here%/*}/target/converge-cluster}
export DEV_CLIENT_PORT_BASE=${DEV_CLIENT_PORT_BASE:-8600}
export DEV_PEER_PORT_BASE=${DEV_PEER_PORT_BASE:-8700}
# shellcheck source=scripts/lib.sh
source "$here/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/converge.sh [PART…] [OPTION…]

Starts fresh clusters of its own (ports 8601… and 8701…) and measures:

  hints    one of five nodes is dead while KEYS keys are written for SECONDS; the time from its start
           until no hint is left for it
  trees    the same without hints; the time until every peer has compared everything with it
  one      a single key of BIG_KEYS differs on one of three nodes; the bytes exchanged to find and mend
           it, and what a comparison costs when nothing differs
  wipe     one of three nodes with BIG_KEYS keys loses its disk; the time until it is full again, and
           the p99 of a foreground load before and meanwhile
  grow     three nodes with BIG_KEYS keys become four; the time, the bytes that came to the new one beside the
           least possible, and the p99 of a foreground load before and meanwhile
  rest     what three nodes with KEYS keys write and exchange while nobody asks anything, though they compare
           every second, in --load-seconds
  down     one of three nodes dies, then stalls, under a foreground load on the other two: requests that
           failed, and the p99 from the second second on, beside that of the healthy cluster

  --keys N         (default 20000)       --seconds S     (default 10)
  --big-keys N     (default 50000)       --value-bytes B (default 1024)
  --rate OPS       foreground load of wipe, grow and down, PUT and GET (default 500)
  --load-seconds S how long it lasts, before and again meanwhile (default 30)
  --durability D   fsync or buffered (default fsync)

Example, the figures of the issue:
  scripts/converge.sh --keys 100000 --seconds 60 --big-keys 1000000
HELP
}

parts=() keys=20000 seconds=10 big_keys=50000 value_bytes=1024 rate=500 load_seconds=30 durability=fsync
while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        hints | trees | one | wipe | grow | rest | down)
            parts+=("$1")
            shift
            ;;
        --durability)
            durability=${2:-}
            [[ $durability == fsync || $durability == buffered ]] || die "--durability is fsync or buffered"
            shift 2
            ;;
        --keys | --seconds | --big-keys | --value-bytes | --rate | --load-seconds)
            [[ ${2:-} =~ ^[1-9][0-9]{0,7}$ ]] || die "$1 needs a number from 1 on (see --help)"
            name=${1#--}
            printf -v "${name//-/_}" %s "$2"
            shift 2
            ;;
        *) die "unknown word '$1' (see --help)" ;;
    esac
done
((${#parts[@]})) || parts=(hints trees one wipe grow rest down)

rows=()
row() {
    rows+=("$(printf '%-6s  %-50s  %24s' "$1" "$2" "$3")")
    say "${rows[-1]}"
}

# Milliseconds on a clock that nobody sets.
now_ms() {
    local up
    read -r up _ </proc/uptime
    echo $((10#${up/./} * 10))
}

seconds_since() {
    local ms=$(($(now_ms) - $1))
    printf '%d.%02d s' $((ms / 1000)) $((ms % 1000 / 10))
}

# A fresh cluster of $1 nodes; the settings after it go to all of them.
fresh() {
    local count=$1
    shift
    "$SCRIPTS/cluster.sh" wipe >/dev/null
    settings=("$@")
    env "${settings[@]}" "$SCRIPTS/cluster.sh" up "$count" --durability "$durability" >/dev/null
}

# Starts node $1 again as the others were started.
start_again() {
    (
        for setting in "${settings[@]}"; do export "${setting?}"; done
        start_node "$1"
    )
}

# The client URLs of all nodes but $1, with commas.
urls_without() {
    local node list=''
    for node in $(cluster_nodes); do
        [[ $node == "$1" ]] || list+=,$(client_url "$node")
    done
    echo "${list#,}"
}

# Stores $1 keys, each once.
store() {
    "$BENCH_BIN" run --nodes "$(client_urls)" --op get --keys "$1" --value-bytes "$value_bytes" \
        --warmup-seconds 0 --seconds 0.1 >/dev/null
}

# Has node $1 compare everything with everybody now; prints its report.
compare() {
    curl -sf -m 610 -X POST "$(client_url "$1")/anti-entropy/run?timeout_ms=60000" ||
        die "$1 does not compare"
}

# Sums field $1 over the comparisons of all nodes, done now.
compare_all() {
    local node
    for node in $(cluster_nodes); do compare "$node"; done |
        jq -s "{sum: [.[].rounds[]$1] | add, complete: all(.complete)} | select(.complete).sum // 0"
}

# The sum of metric $1 over all nodes but $2, if it is said, and over its labels.
metric_sum() {
    local node
    for node in $(cluster_nodes); do
        [[ $node == "${2:-}" ]] || curl -sf -m 5 "$(client_url "$node")/metrics"
    done | awk -v name="$1" '$1 == name || index($1, name "{") == 1 { sum += $2 } END { printf "%d\n", sum }'
}

# How many hints all nodes but $1 keep.
hints_without() { metric_sum quorate_hints "$1"; }

# Whether node $1 and each of its peers have compared everything, each beginning once, since $2 ms ago: of
# two nodes each begins where it comes first in the preference list.
compared_since() {
    local node pairs=$((2 * ($(cluster_count) - 1)))
    for node in $(cluster_nodes); do
        curl -sf -m 5 "$(client_url "$node")/anti-entropy" | jq -c --arg me "$node" '.me = $me'
    done | jq -es --arg node "$1" --argjson since "$2" --argjson pairs "$pairs" '
        [.[] | .me as $me | .rounds[] | select(.outcome == "complete" and .began_ms_ago < $since)
            | [$me, .peer] | select(index($node))]
        | unique | length == $pairs' >/dev/null
}

# Writes while n5 is dead, and starts it. Sets begun, in milliseconds.
away() {
    kill -KILL "$(node_pid n5)"
    wait_gone n5 10
    "$BENCH_BIN" run --nodes "$(urls_without n5)" --op put --keys "$keys" --value-bytes "$value_bytes" \
        --warmup-seconds 0 --seconds "$seconds" --json "$figures/$1.json" >/dev/null
    local writes
    writes=$(jq .operations "$figures/$1.json")
    row "$1" "keys; writes while one node was away" "$keys; $writes"
    row "$1" "hints kept" "$(hints_without n5)"
    begun=$(now_ms)
    start_again n5
    wait_for node_ready 60 n5
    row "$1" "its process takes requests after" "$(seconds_since "$begun")"
}

# Waits until the trees of all nodes are those of the buckets' properties, which the load has just set:
# until then nothing is compared.
wait_trees_fit() {
    local node
    for node in $(cluster_nodes); do
        until curl -sf -m 5 "$(client_url "$node")/anti-entropy" | jq -e .sweep.trees_fit >/dev/null; do
            sleep 0.2
        done
    done
}

# Fails unless nothing differs any more.
require_whole() {
    local differing
    differing=$(compare_all .differing)
    row "$1" "trees that differ afterwards" "$differing"
    [[ $differing == 0 ]] || die "the cluster is not whole"
}

part_hints() {
    fresh 5 QUORATE_ANTI_ENTROPY__INTERVAL_MS=0
    store "$keys"
    away hints
    until [[ $(hints_without n5) == 0 ]]; do sleep 0.1; done
    row hints "no hint left after" "$(seconds_since "$begun")"
    require_whole hints
}

part_trees() {
    fresh 5 QUORATE_LIMITS__HINT_BYTES_MAX=0
    store "$keys"
    away trees
    until compared_since n5 $(($(now_ms) - begun)); do sleep 0.1; done
    row trees "compared and mended with every peer after" "$(seconds_since "$begun")"
    require_whole trees
}

part_one() {
    fresh 3 QUORATE_ANTI_ENTROPY__INTERVAL_MS=0 QUORATE_LIMITS__HINT_BYTES_MAX=0
    store "$big_keys"
    compare_all .differing >/dev/null
    require_whole one
    "$SCRIPTS/partition.sh" n3 >/dev/null
    curl -sf -o /dev/null -X PUT "$(client_url n1)/kv/bench/one?w=2" -d 'differs' || die "the write failed"
    "$SCRIPTS/partition.sh" --heal >/dev/null
    until curl -sf "$(client_url n1)/cluster" | jq -e 'all(.nodes[]; .state != "down")' >/dev/null; do
        sleep 0.1
    done
    local node list
    wait_trees_fit
    begun=$(now_ms)
    list=$(for node in n1 n2 n3; do compare "$node"; done)
    row one "keys; keys mended" "$big_keys; $(jq -s '[.[].rounds[].keys_repaired] | add' <<<"$list")"
    row one "found and mended in" "$(seconds_since "$begun")"
    row one "bytes of the rounds that mended it" "$(jq -s '[.[].rounds[] | select(.keys_repaired > 0)
        | .bytes_sent + .bytes_received] | add' <<<"$list")"
    row one "bytes of all rounds, every pair both ways" \
        "$(jq -s '[.[].rounds[] | .bytes_sent + .bytes_received] | add' <<<"$list")"
    row one "the same when nothing differs" "$(compare_all '|(.bytes_sent + .bytes_received)')"
    require_whole one
}

# One measurement of the foreground load through n1 and n2 on $3 keys, of $1 seconds after $4 (1) that are
# not measured, though errors are counted then too; adds it to file $2.
foreground() {
    "$BENCH_BIN" run --nodes "$(client_url n1),$(client_url n2)" --op mixed --skip-preload --keys "$3" \
        --value-bytes "$value_bytes" --rate "$rate" --warmup-seconds "${4:-1}" --seconds "$1" \
        --json "$2" >/dev/null
}

# The p99 of the measurement in file $1, that of GET and PUT behind it, and its requests that failed.
p99_ms() { jq -r '"\(.latency.p99_us / 1000) ms (\(.by_op.get.p99_us / 1000), \(.by_op.put.p99_us / 1000))"' "$1"; }
errors_of() { jq '.errors | add // 0' "$1"; }

part_wipe() {
    fresh 3
    store "$big_keys"
    local before=$figures/before.json during=$figures/during.json load
    foreground "$load_seconds" "$before" "$big_keys"
    wait_trees_fit
    kill -KILL "$(node_pid n3)"
    wait_gone n3 10
    rm -rf "${CLUSTER_DIR:?}/n3/data"
    begun=$(now_ms)
    start_again n3
    wait_for node_answers 60 n3
    # What the crash itself does to a load is what 'down' measures; here it is the filling.
    foreground "$load_seconds" "$during" "$big_keys" &
    load=$!
    # Asked seldom: what asks takes its share of the processor, a measurable part of what is measured.
    until curl -sf -m 2 "$(client_url n3)/cluster" | jq -e .filled >/dev/null; do sleep 1; done
    row wipe "keys; full again after" "$big_keys; $(seconds_since "$begun")"
    ! kill -0 "$load" 2>/dev/null || warn "Note: the node is full before the load ends; give it fewer --load-seconds."
    wait "$load" || die "the foreground load failed"
    row wipe "p99 (of GET, PUT) before, at $rate operations/s" "$(p99_ms "$before")"
    row wipe "foreground p99 meanwhile" "$(p99_ms "$during")"
    row wipe "foreground errors meanwhile" "$(errors_of "$during")"
}

# Bytes of messages that came to node $1.
bytes_received() {
    curl -sf -m 5 "$(client_url "$1")/metrics" |
        awk '/^quorate_peer_bytes_total\{.*direction="received"/ { sum += $2 } END { printf "%d\n", sum }'
}

part_grow() {
    fresh 3
    store "$big_keys"
    local before=$figures/grow-before.json during=$figures/grow-during.json load plan share
    foreground "$load_seconds" "$before" "$big_keys"
    wait_trees_fit
    (
        for setting in "${settings[@]}"; do export "${setting?}"; done
        "$SCRIPTS/cluster.sh" add n4 >"$figures/grow-add.log" 2>&1
    ) &
    local adding=$!
    until plan=$(curl -sf -m 5 "$(client_url n1)/layout") && jq -e '.phase == "moving"' <<<"$plan" >/dev/null; do
        kill -0 "$adding" 2>/dev/null || die "n4 was not added: $(cat "$figures/grow-add.log")"
        sleep 0.1
    done
    begun=$(now_ms)
    foreground "$load_seconds" "$during" "$big_keys" &
    load=$!
    wait "$adding" || die "n4 was not added: $(cat "$figures/grow-add.log")"
    local took
    took=$(seconds_since "$begun")
    local received
    received=$(bytes_received n4)
    # Each of four nodes holds three quarters of the keys, and a row has its key and clock besides its value.
    share=$((big_keys * 3 / 4))
    row grow "keys of $value_bytes bytes; four nodes after" "$big_keys; $took"
    row grow "bytes to n4; for each row of its share" "$received; $((received / share))"
    ! kill -0 "$load" 2>/dev/null || warn "Note: the change ended before the load did; give it fewer --load-seconds."
    wait "$load" || die "the foreground load failed"
    row grow "p99 (of GET, PUT) before, at $rate operations/s" "$(p99_ms "$before")"
    row grow "foreground p99 meanwhile" "$(p99_ms "$during")"
    row grow "foreground errors meanwhile" "$(errors_of "$during")"
}

part_rest() {
    fresh 3 QUORATE_ANTI_ENTROPY__INTERVAL_MS=1000
    store "$keys"
    wait_trees_fit
    # Within a minute of the last write each node records that its store was in use, and some seconds later
    # RocksDB looks once more for what to compact of the load.
    sleep 100
    local writes
    writes=$(metric_sum quorate_store_writes_total)
    local bytes rounds exchanged
    bytes=$(disk_bytes) rounds=$(metric_sum quorate_anti_entropy_rounds_total)
    exchanged=$(metric_sum quorate_anti_entropy_bytes_total)
    sleep "$load_seconds"
    rounds=$(($(metric_sum quorate_anti_entropy_rounds_total) - rounds))
    ((rounds)) || die "nothing was compared"
    row rest "seconds; rounds of two nodes" "$load_seconds; $rounds"
    row rest "batches written; bytes written to disk" \
        "$(($(metric_sum quorate_store_writes_total) - writes)); $(($(disk_bytes) - bytes))"
    row rest "bytes exchanged per round, over all partitions" \
        "$((($(metric_sum quorate_anti_entropy_bytes_total) - exchanged) / rounds))"
}

part_down() {
    fresh 3
    store "$keys"
    local healthy=$figures/healthy.json signal fault load
    foreground "$load_seconds" "$healthy" "$keys"
    row down "p99 (of GET, PUT), healthy, at $rate operations/s" "$(p99_ms "$healthy")"
    for signal in KILL STOP; do
        fault=$figures/$signal.json
        # The node fails two seconds after the load has begun; what is measured begins a second later.
        foreground "$load_seconds" "$fault" "$keys" 3 &
        load=$!
        sleep 2
        kill "-$signal" "$(node_pid n3)"
        wait "$load" || die "the foreground load failed"
        row down "p99 after SIG$signal" "$(p99_ms "$fault")"
        row down "requests that failed, from before SIG$signal on" "$(errors_of "$fault")"
        if [[ $signal == KILL ]]; then start_again n3; else kill -CONT "$(node_pid n3)"; fi
        wait_for node_ready 60 n3
        until [[ $(hints_without n3) == 0 ]]; do sleep 0.1; done
    done
    require_whole down
}

ensure_prerequisites
build_node
build_bench
figures=$(mktemp -d)
trap '"$SCRIPTS/cluster.sh" wipe >/dev/null; rm -rf "$figures"' EXIT
commit=$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || echo unknown)
say "Durability $durability, values of $value_bytes bytes, $(nproc) cores, commit $commit"
for part in "${parts[@]}"; do "part_$part"; done
printf '\n%-6s  %-50s  %24s\n' part what measured
printf '%s\n' "${rows[@]}"
