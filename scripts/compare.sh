#!/usr/bin/env bash
# Two node binaries, or one with and without TLS, a feed or an index, measured in turns.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/compare.sh [--turns N] [--seconds S] [--durability fsync|buffered] OLD [NEW]
       scripts/compare.sh --tls|--feed|--index [--turns N] [--seconds S] [--durability fsync|buffered]

Runs two clusters of three nodes at once, on ports 8401… and 8601…: one of the node binary OLD, one of NEW (default:
the one of this checkout). They are loaded in turns, a slice each, so that what the machine does beside it strikes
both. Prints the processor time of an operation in NEW's nodes divided by that in OLD's, and the same of throughput
and latency: the median over the turns, with the quartiles.

  --tls          plain HTTP between clients and nodes, and between nodes, against TLS
  --feed         a bucket without a feed, against one whose changes are logged
  --index        values without index entries, against values with one
  --turns N      slices of each cluster and each load (default 15)
  --seconds S    the length of a slice (default 2)
  --durability D of the clusters (default: buffered)

The loads: GET and PUT of 20,000 keys of 1 KiB with 64 connections and with one, N=3, W=R=2.

Example:
  scripts/compare.sh --turns 30 /tmp/quorate-of-yesterday
HELP
}

turns=15 seconds=2 durability=buffered tls=0 more=() binaries=()
while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --turns | --seconds | --durability)
            (($# > 1)) || die "$1 needs a value (see --help)"
            declare "${1#--}=$2"
            shift
            ;;
        --tls) tls=1 ;;
        --feed) more=(--feed) ;;
        --index) more=(--index-entries 1) ;;
        -*) die "unknown option '$1' (see --help)" ;;
        *) binaries+=("$1") ;;
    esac
    shift
done
[[ $turns =~ ^[1-9][0-9]*$ && $seconds =~ ^[1-9][0-9]*$ ]] || die "--turns and --seconds are whole numbers from 1"
((tls || ${#more[@]})) || ((${#binaries[@]} == 1 || ${#binaries[@]} == 2)) || die "name one or two binaries, or say --tls, --feed or --index (see --help)"

ensure_prerequisites
build_bench
build_node
old=${binaries[0]:-$NODE_BIN} new=${binaries[1]:-$NODE_BIN}
for binary in "$old" "$new"; do [[ -x $binary ]] || die "$binary is no program"; done

base=$ROOT/target/compare
results=$base/results.jsonl
mkdir -p "$base"
rm -f "$results"

# Runs the rest as a function of lib.sh would run it for the cluster named $1 ("old", "new").
of() {
    local CLUSTER_DIR=$base/$1 CLIENT_PORT_BASE=8400 NODE_BIN=$old
    [[ $1 == old ]] || CLIENT_PORT_BASE=8600 NODE_BIN=$new
    shift
    "$@"
}

cluster_sh() {
    env DEV_CLUSTER_DIR="$CLUSTER_DIR" DEV_CLIENT_PORT_BASE="$CLIENT_PORT_BASE" \
        DEV_PEER_PORT_BASE=$((CLIENT_PORT_BASE + 100)) DEV_NODE_BIN="$NODE_BIN" "$SCRIPTS/cluster.sh" "$@"
}

clean_up() {
    of old cluster_sh wipe >/dev/null || true
    of new cluster_sh wipe >/dev/null || true
}
trap clean_up EXIT

# One slice: cluster $1, operation $2, connections $3; the rest goes to the generator.
slice() {
    local which=$1 op=$2 connections=$3 believe=()
    shift 3
    [[ $which == old ]] || set -- "$@" "${more[@]}"
    [[ $which == old ]] || ((!tls)) || believe=(--ca "$base/new/tls/ca.pem")
    "$BENCH_BIN" run --nodes "$(of "$which" client_urls)" --pids "$(of "$which" node_pids)" --op "$op" --keys 20000 \
        --connections "$connections" --seconds "$seconds" --warmup-seconds 0.3 --json "$results" \
        --name "$which-$op-$connections" "${believe[@]}" "$@" >/dev/null || die "$which: $op failed"
}

clean_up
of old cluster_sh up 3 --durability "$durability" >/dev/null
secure=()
((!tls)) || secure=(--secure)
of new cluster_sh up 3 --durability "$durability" "${secure[@]}" >/dev/null
for which in old new; do slice "$which" get 64; done
rm -f "$results"
for connections in 64 1; do
    for op in get put; do
        for ((turn = 1; turn <= turns; turn++)); do
            slice old "$op" "$connections" --skip-preload
            slice new "$op" "$connections" --skip-preload
        done
    done
done

say "NEW divided by OLD, $turns turns of $seconds s, $durability: median (quartiles)"
jq -rs '
    def quantile(q): sort | .[((length - 1) * q) | round];
    def three: map(. * 1000 | round / 1000) | "\(quantile(0.5)) (\(quantile(0.25)), \(quantile(0.75)))";
    def of($which): map(select(.name | startswith($which + "-")));
    group_by(.name | sub("^(old|new)-"; ""))[]
    | [(of("old")), (of("new"))] as [$old, $new]
    | [range($old | length) as $i | [$old[$i], $new[$i]]] as $pairs
    | ($old[0].name | sub("^old-"; "")) + "\t"
      + "processor " + ([$pairs[] | .[1].cpu_us_per_operation / .[0].cpu_us_per_operation] | three) + "\t"
      + "throughput " + ([$pairs[] | .[1].operations_per_second / .[0].operations_per_second] | three) + "\t"
      + "p50 " + ([$pairs[] | .[1].latency.p50_us / .[0].latency.p50_us] | three)
' "$results" | column -t -s $'\t'
