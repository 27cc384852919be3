#!/usr/bin/env bash
# The figures of the project, on fresh clusters with ports of their own, with the ceilings beside
# them: a bare HTTP server and a bare RocksDB, on the same machine in the same run.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
export DEV_CLUSTER_DIR=${DEV_CLUSTER_DIR:-${here%/*}/target/bench-cluster}
export DEV_CLIENT_PORT_BASE=${DEV_CLIENT_PORT_BASE:-8400}
export DEV_PEER_PORT_BASE=${DEV_PEER_PORT_BASE:-8500}
# shellcheck source=scripts/lib.sh
source "$here/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/bench.sh [--table NAME] [--durability fsync|buffered] [--seconds S] [--long] [--keep] [OPTION…]

Starts nodes on ports 8401… and 8501…, measures, prints a table, and takes the cluster away again.
Unless the table says otherwise: three nodes, N=3, W=R=2, values of 1 KiB, 64 connections over all
nodes, every answer checked, the load generator on the same cores.

Tables, with the time each takes by default:
  standard     PUT and GET of 100,000 keys, buffered and fsync, each beside a bare HTTP server; one
               connection to an idle cluster; a bare RocksDB loop with the same writes; the targets
               (5 minutes; the default)
  loads        zipfian keys, a mixture with deletes, deletes, sizes at random, conflicts (2 minutes)
  nodes        3, 5, 7 and 9 nodes at N=3, asked anywhere and by clients that know the ring (4 minutes)
  keys         10^4 to 10^6 keys in caches that hold them, and the memory they need without (8 minutes);
               with --long 10^7 too (35 GB of disk, an hour; with --value-bytes 100 half of that)
  values       values of 100 B to 1 MiB (2 minutes)
  connections  1 to 1,000 connections, then ten times the load that saturates (5 minutes)
  overload     values of 100 B to 8 MiB, 16 connections, then ten times as many beside clients that take
               and send values in drops or only keep a connection; a share of 1 KiB beside them (2 minutes)
  mixture      values of 100 B alone, then beside ten times the load of large ones that saturates: of 100 KiB,
               1 MiB, 8 MiB and between; memory, refusals, peers called down (8 minutes)
  tail         half of the peak rate, open loop: undisturbed, then while a node that was away is
               brought up to date, then that with trees compared without pause (3 minutes)

  --durability D   of the clusters (default: buffered, and for `standard` both)
  --seconds S      the length of each measurement (default 10; `tail` takes three times as long)
  --long           as long and as large as it gets
  --keep           leave the last cluster and its data (under target/bench-cluster)
  OPTION…          goes to the generator: --connections 64, --value-bytes 1024, --query w=1, …:
                   quorate-bench run --help lists them

Each measurement is kept as a line of JSON in target/bench/, with a plot of latency over time and of
the percentile curve beside it.

Example:
  scripts/bench.sh --table nodes --seconds 5
HELP
}

table=standard durability='' seconds=10 long=0 keep=0 options=()
while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --table | --durability | --seconds)
            [[ -n ${2:-} ]] || die "$1 wants a value (see --help)"
            printf -v "${1#--}" %s "$2"
            shift
            ;;
        --long) long=1 ;;
        --keep) keep=1 ;;
        *) options+=("$1") ;;
    esac
    shift
done
[[ $table =~ ^(standard|loads|nodes|keys|values|connections|overload|mixture|tail)$ ]] ||
    die "there is no table '$table' (see --help)"
[[ $durability =~ ^(|fsync|buffered)$ ]] || die "--durability is fsync or buffered, not '$durability'"
[[ $seconds =~ ^[0-9]{1,5}$ && $seconds -gt 0 ]] || die "--seconds is a number from 1, not '$seconds'"

failed=0
settings=()
# Where the load goes, if not to all nodes.
only=''

# shellcheck disable=SC2317 # a trap calls it
clean_up() {
    ((keep)) || "$SCRIPTS/cluster.sh" wipe >/dev/null
}

# A fresh cluster of $1 nodes with durability $2; the settings after it go to all of them.
fresh() {
    local count=$1 durability=$2
    shift 2
    settings=("$@")
    "$SCRIPTS/cluster.sh" wipe >/dev/null
    env "${settings[@]}" "$SCRIPTS/cluster.sh" up "$count" --durability "$durability" >/dev/null
}

# Measures what the generator's command $1 does on the whole cluster, and keeps it under the name $2.
measure() {
    local command=$1 name=$2
    shift 2
    "$BENCH_BIN" "$command" --nodes "${only:-$(client_urls)}" --pids "$(node_pids)" --seconds "$seconds" \
        --json "$results" --name "$name" "$@" "${options[@]}" >/dev/null || {
        warn "$name: it answered wrongly, or not at all"
        failed=1
    }
}

run() { measure run "$@"; }

# PUT and GET. Reading comes first: it lays the keys down.
get_and_put() {
    run "$1" --op get "${@:2}"
    run "$1" --op put "${@:2}"
}

# --- The tables --------------------------------------------------------------------------------

standard() {
    local each
    mkdir -p "$DEV_CLUSTER_DIR"
    "$CEILING_BIN" "$DEV_CLUSTER_DIR" "$((seconds / 2 + 1))" >>"$results"
    for each in ${durability:-buffered fsync}; do
        fresh 3 "$each"
        measure standard "$each" --keys 100000
    done
}

loads() {
    fresh 3 "${durability:-buffered}"
    get_and_put uniform
    get_and_put zipfian --order zipfian
    run 'mixture 50:45:5' --op mixed --mix 50:45:5
    run 'deletes' --op delete
    run 'sizes at random' --op mixed --value-bytes log:100..100000 --keys 10000 --bucket sizes
    run '5 % conflicts' --op mixed --conflicts 5 --bucket conflicts --keys 10000
}

nodes() {
    local count
    for count in 3 5 7 9; do
        fresh "$count" "${durability:-buffered}"
        get_and_put "$count nodes"
        run "$count nodes, clients know the ring" --op get --route home --skip-preload
        run "$count nodes, clients know the ring" --op put --route home
        # As much for each node as three have.
        ((count > 3)) || continue
        run "$count nodes, load grows too" --op get --route home --skip-preload --connections $((64 * count / 3))
        run "$count nodes, load grows too" --op put --route home --connections $((64 * count / 3))
    done
}

keys() {
    local count counts=(10000 100000 1000000) free_kib
    mkdir -p "$DEV_CLUSTER_DIR"
    if ((long)); then
        free_kib=$(df -k --output=avail "$DEV_CLUSTER_DIR" | tail -n 1)
        ((free_kib > 60 * 1024 * 1024)) || die "10^7 keys need 60 GiB of free disk for a while"
        counts+=(10000000)
    fi
    for count in "${counts[@]}"; do
        fresh 3 "${durability:-buffered}" "QUORATE_STORAGE__ROW_CACHE_BYTES=$(row_cache_bytes "$count")"
        run "$count keys, just stored" --op get --keys "$count"
        settle
        run "$count keys" --op get --keys "$count" --skip-preload
        settle
        run "$count keys" --op put --keys "$count"
        count_memory "$count"
    done
}

# Waits until the nodes write next to nothing to the disk, at most five minutes: storing millions of keys leaves
# compactions behind that are none of what is measured next. Its own compactions come within the measurement.
settle() {
    local before after turn
    after=$(disk_bytes)
    for ((turn = 0; turn < 100; turn++)); do
        before=$after
        sleep 3
        after=$(disk_bytes)
        ((after - before > 1 << 20)) || return 0
        ((turn % 10 < 9)) || say "Compactions are still under way after $((turn * 3 + 3)) s."
    done
    warn "Compactions did not end within five minutes: what follows was measured beside them."
}

# A row cache that $1 rows of 1 KiB fit into, if the three nodes leave half of the free memory.
row_cache_bytes() {
    local wanted=$(($1 * 1536)) free_kib
    free_kib=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)
    local most=$((free_kib * 1024 / 6)) least=$((128 << 20))
    ((wanted < most)) || wanted=$most
    ((wanted > least)) || wanted=$least
    echo "$wanted"
}

# Says what the nodes need for $1 keys when their caches are as small as they can be: restarted, so that
# nothing is left of the load.
count_memory() {
    local node kib=0
    "$SCRIPTS/cluster.sh" down >/dev/null
    env QUORATE_STORAGE__ROW_CACHE_BYTES=0 QUORATE_STORAGE__BLOCK_CACHE_BYTES=$((1 << 20)) \
        "$SCRIPTS/cluster.sh" up >/dev/null
    for node in $(cluster_nodes); do
        kib=$((kib + $(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$(node_pid "$node")/status")))
    done
    say "$1 keys: $((kib / 3)) KiB of memory a node after a restart without caches"
}

values() {
    local bytes count
    fresh 3 "${durability:-buffered}"
    for bytes in 100 1024 10240 102400 1048576; do
        count=$((256 * 1024 * 1024 / bytes))
        ((count < 20000)) || count=20000
        get_and_put "$bytes bytes" --value-bytes "$bytes" --keys "$count" --bucket "values$bytes"
    done
}

connections() {
    local count op peak turn
    ulimit -n "$(ulimit -Hn)"
    fresh 3 "${durability:-buffered}"
    run 'warm-up' --op get
    run 'warm-up' --op put
    : >"$results"
    for count in 1 4 16 64 256 1000; do
        run 'closed loop' --op get --connections "$count" --skip-preload
        run 'closed loop' --op put --connections "$count"
    done
    # What 64 connections reach is near the peak; ten times as many ask, ten times as fast. In turns, for
    # the store grows and the machine has its moods.
    for op in get put; do
        peak=$(rate_of "$op" 64)
        for turn in 1 2 3; do
            run "saturated, turn $turn" --op "$op" --skip-preload
            run "10x offered, turn $turn" --op "$op" --connections 640 --rate "$((peak * 10))" --skip-preload
        done
    done
    # With room for 32 operations a node, most of 640 are refused at once; those who are come again
    # when the answer says.
    fresh 3 "${durability:-buffered}" QUORATE_LIMITS__OPERATIONS_MAX=32
    run 'room for 96, saturated' --op put
    run 'room for 96, retry at once' --op put --connections 640
    run 'room for 96, Retry-After obeyed' --op put --connections 640 --obey-retry-after
}

# Any mixture of sizes at ten times the load that saturates, with slow clients beside it.
overload() {
    local sizes=(--op mixed --value-bytes log:100..8388608 --keys 300 --bucket sizes)
    local slow=(--slow-readers 64 --slow-uploads 64 --idle-connections 300)
    ulimit -n "$(ulimit -Hn)"
    fresh 3 "${durability:-buffered}"
    run 'sizes, saturated' "${sizes[@]}" --connections 16
    run 'sizes, 10x' "${sizes[@]}" --connections 160 --skip-preload
    run 'sizes, 10x, slow clients' "${sizes[@]}" --connections 160 --skip-preload "${slow[@]}"
    "$BENCH_BIN" run --nodes "$(client_urls)" "${sizes[@]}" --connections 160 --skip-preload \
        --seconds $((3 * seconds)) "${slow[@]}" >/dev/null &
    local large=$!
    run '1 KiB beside them' --op mixed --connections 16 --keys 1000 --bucket small
    kill "$large" 2>/dev/null || true
    wait "$large" 2>/dev/null || true
}

# Small requests alone, and beside clients that want ten times as much of large values as saturates.
mixture() {
    local small=(--op mixed --value-bytes 100 --keys 10000 --bucket small)
    local turn each sizes bytes count large large_ones looking
    ulimit -n "$(ulimit -Hn)"
    fresh 3 "${durability:-buffered}"
    run 'warm-up' "${small[@]}"
    : >"$results"
    look_for_peers_down &
    looking=$!
    local all=('100 KiB=102400' '1 MiB=1048576' '8 MiB=8388608' '100 KiB to 8 MiB=log:102400..8388608')
    for each in "${all[@]}"; do
        sizes=${each%=*} bytes=${each#*=}
        # About 200 MiB of them.
        count=$((208 * 1024 * 1024 / ${bytes#*..}))
        large=(--op mixed --value-bytes "$bytes" --keys "$((count < 100 ? 4 * count : count))")
        large+=(--bucket "large${bytes//[^0-9]/}")
        for turn in 1 2; do
            run 'small, alone' "${small[@]}" --skip-preload
            run "$sizes, saturated" "${large[@]}" --connections 16
            # Both at once, the large ones for a little longer, so that the small ones are never alone.
            (
                run "$sizes, 10x" "${large[@]}" --connections 160 --skip-preload --warmup-seconds 2.5
                exit "$failed"
            ) &
            large_ones=$!
            sleep 0.3
            run "small beside $sizes" "${small[@]}" --skip-preload --warmup-seconds 2
            wait "$large_ones" || failed=1
        done
    done
    kill "$looking"
    wait "$looking" 2>/dev/null || true
    say "Peers called down: $(wc -l <"$DEV_CLUSTER_DIR/peers-down") times in $(cat "$DEV_CLUSTER_DIR/looks") looks." \
        "Memory of all nodes should stay below $((3 * $(bounds_mib) * 5 / 4)) MiB."
}

# Looks twice a second whether a node believes that a peer is down.
look_for_peers_down() {
    local node looks=0
    : >"$DEV_CLUSTER_DIR/peers-down"
    while true; do
        for node in $(cluster_nodes); do
            curl -s -m 5 "$(client_url "$node")/metrics" | grep '^quorate_peer_up{.*} 0$' \
                >>"$DEV_CLUSTER_DIR/peers-down" || true
            echo $((++looks)) >"$DEV_CLUSTER_DIR/looks"
        done
        sleep 0.5
    done
}

# What a node may hold by its default settings, in MiB: caches, values of operations, large messages of peers,
# four memtables of rows and those of the other families.
bounds_mib() { echo $((256 + 128 + 256 + 128 + 4 * 64 + 40)); }

tail_latency() {
    local peak half
    # Four: with three there is nobody who could keep hints for one that is away. They compare ten times as
    # often as by default.
    fresh 4 "${durability:-buffered}" QUORATE_ANTI_ENTROPY__INTERVAL_MS=1000
    run peak --op mixed
    peak=$(rate_of mixed 64)
    half=$((peak / 2))
    seconds=$((seconds * 3))
    run 'half of the peak' --op mixed --rate "$half" --skip-preload
    miss_writes
    run 'half, while n4 catches up' --op mixed --rate "$half" --skip-preload
    miss_writes
    compare_trees &
    local comparing=$!
    run 'half, the same, comparing without pause' --op mixed --rate "$half" --skip-preload
    kill "$comparing" 2>/dev/null || true
    wait "$comparing" 2>/dev/null || true
}

# Has the last node miss a third as long of writes at the peak as is measured, and starts it again. Its
# clients are gone.
miss_writes() {
    kill -KILL "$(node_pid n4)"
    wait_gone n4 10
    only=$(client_url n1),$(client_url n2),$(client_url n3)
    "$BENCH_BIN" run --nodes "$only" --op put --seconds "$((seconds / 3))" >/dev/null || failed=1
    (export "${settings[@]}" && start_node n4)
}

# Has the nodes compare everything with each other, again and again.
compare_trees() {
    local node
    while true; do
        for node in $(cluster_nodes); do
            curl -s -m 60 -o /dev/null -X POST "$(client_url "$node")/anti-entropy/run" || sleep 0.5
        done
    done
}

# Operations per second of the last measurement of operation $1 over $2 connections, closed loop.
rate_of() {
    jq -s --arg op "$1" --argjson connections "$2" '
        [.[] | select(.op == $op and .connections == $connections and .rate == null)]
        | last.operations_per_second | floor' "$results"
}

# --- What is around them -----------------------------------------------------------------------

read -r load _ </proc/loadavg || load=0
if ((${load%.*} >= 1)); then
    warn "Note: the load average is $load. What else runs here spoils the figures."
fi
ensure_prerequisites
build_node
build_bench
CEILING_BIN=${DEV_CEILING_BIN:-$TARGET/release/examples/ceiling}
if [[ $table == standard && -z ${DEV_CEILING_BIN:-} ]]; then
    (cd "$ROOT" && cargo build --quiet --release --locked -p quorate-storage --example ceiling)
fi
commit=$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || echo unknown)
results=$ROOT/target/bench/$table-$(date +%Y%m%d-%H%M%S)-$commit.jsonl
mkdir -p "${results%/*}"
: >"$results"
trap clean_up EXIT

processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
say "Table $table: commit $commit, $(nproc) cores (${processor:-unknown}), load average $load before," \
    "generator on the same machine"
case $table in
    standard) standard ;;
    loads) loads ;;
    nodes) nodes ;;
    keys) keys ;;
    values) values ;;
    connections) connections ;;
    overload) overload ;;
    mixture) mixture ;;
    tail) tail_latency ;;
esac

"$BENCH_BIN" table "$results" --targets || failed=1
"$BENCH_BIN" plot "$results" --svg "${results%.jsonl}.svg" >/dev/null
say "Kept in ${results#"$ROOT"/}; plot in ${results%.jsonl}.svg"
exit "$failed"
