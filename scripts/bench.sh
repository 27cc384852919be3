#!/usr/bin/env bash
# The standard figures, on a fresh cluster of three nodes with ports of its own, with the ceiling
# beside them: a bare HTTP server on the same machine in the same run.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
export DEV_CLUSTER_DIR=${DEV_CLUSTER_DIR:-${here%/*}/target/bench-cluster}
export DEV_CLIENT_PORT_BASE=${DEV_CLIENT_PORT_BASE:-8400}
export DEV_PEER_PORT_BASE=${DEV_PEER_PORT_BASE:-8500}
# shellcheck source=scripts/lib.sh
source "$here/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/bench.sh [--durability fsync|buffered] [--keep] [OPTION…]

Starts three nodes on ports 8401… and 8501…, measures PUT and GET of 1 KiB values over 64
connections with N=3, W=R=2, prints one table, and takes the cluster away again. Each measurement is
also added as a line of JSON to target/bench.jsonl.

  --durability D   as of scripts/cluster.sh up (default fsync)
  --keep           leave the cluster and its data (under target/bench-cluster)
  OPTION…          goes to the generator: --seconds 10, --connections 64, --value-bytes 1024,
                   --keys 20000, --rate OPS, …: quorate-bench run --help lists them

Example:
  scripts/bench.sh --durability buffered --seconds 5
HELP
}

durability=fsync keep=0 options=()
while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --durability)
            durability=${2:-}
            shift
            ;;
        --keep) keep=1 ;;
        *) options+=("$1") ;;
    esac
    shift
done

clean_up() {
    ((keep)) || "$SCRIPTS/cluster.sh" wipe >/dev/null
}

read -r load _ </proc/loadavg || load=0
if ((${load%.*} >= 1)); then
    warn "Note: the load average is $load. What else runs here spoils the figures."
fi
ensure_prerequisites
build_node
build_bench
"$SCRIPTS/cluster.sh" wipe >/dev/null
trap clean_up EXIT
"$SCRIPTS/cluster.sh" up 3 --durability "$durability" >/dev/null
pids=''
for node in $(cluster_nodes); do
    pids+=,$(node_pid "$node")
done
commit=$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || echo unknown)
say "Durability $durability, $(nproc) cores, generator on the same machine, commit $commit"
"$BENCH_BIN" standard --nodes "$(client_urls)" --keys 20000 --json "$TARGET/bench.jsonl" \
    --name "cluster ($durability)" --pids "${pids#,}" "${options[@]}"
