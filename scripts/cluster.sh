#!/usr/bin/env bash
# A cluster on this machine, for trying things out: start, stop, look, add and remove nodes.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/lib-layout.sh
source "$SCRIPTS/lib-layout.sh"

usage() {
    cat <<'HELP'
Usage: scripts/cluster.sh COMMAND

  up [COUNT] [--durability fsync|buffered] [--secure]
               build if needed, start COUNT nodes n1, n2, … (default 5), form the cluster, and wait
               until each is ready. Data of an earlier run is kept. --secure: all ports speak TLS
               alone, with certificates that are made in target/cluster/tls
  add [NODE]   start another node (default: the next number) and add it to the running cluster;
               returns when it has received its share of the data
  remove NODE  remove a node; returns when the others have all that it held. Its data is deleted
  replace DEAD NEW
               put a new node in the place of one that is dead and stays so; the data of that
               one is deleted
  down         stop all nodes; their data stays
  status       a table of the nodes
  logs NODE [-f]
               the last lines of a node's log; -f goes on
  wipe         stop all nodes and delete their data

Client ports are 127.0.0.1:7401…, peer ports 7501…; all files are under target/cluster/.

Example:
  scripts/cluster.sh up 3
  curl -X PUT http://127.0.0.1:7401/kv/cart/alice -d '2 apples'
  curl http://127.0.0.1:7402/kv/cart/alice
  scripts/cluster.sh down
HELP
}

# Writes the config of node $1 of $2, with durability $3.
write_config() {
    local node=$1 count=$2 durability=$3 directory=$CLUSTER_DIR/$1
    # The nodes share this machine's cores: with a thread per core each they would get in each
    # other's way.
    local threads=$(($(nproc) / count))
    ((threads > 0)) || threads=1
    mkdir -p "$directory"
    {
        cat <<TOML
# Written by scripts/cluster.sh at each start. Every setting is explained in config/node.toml.
cluster_id = "quorate-dev"
cluster_keys = ["$(cat "$CLUSTER_DIR/key")"]
node = "$node"
data_dir = "$directory/data"
client_addr = "127.0.0.1:$(client_port "$node")"
peer_addr = "127.0.0.1:$(peer_port "$node")"
worker_threads = $threads
fault_hook = true
durability = "$durability"
TOML
        if joins "$node"; then join_settings "$node"; fi
        if is_secure; then tls_tables "$node"; fi
        joins "$node" || layout_table
    } >"$directory/node.toml.new"
    mv "$directory/node.toml.new" "$directory/node.toml"
    chmod 600 "$directory/node.toml"
}

# The certificate of node $1, made if there is none.
certificate() {
    local node=$1
    [[ -e $CLUSTER_DIR/tls/ca.key ]] || "$NODE_BIN" ca init --dir "$CLUSTER_DIR/tls" >/dev/null
    [[ -e $CLUSTER_DIR/tls/$node.pem ]] || "$NODE_BIN" ca issue --dir "$CLUSTER_DIR/tls" --node "$node" \
        --host 127.0.0.1 --host localhost --out "$CLUSTER_DIR/tls" >/dev/null
}

tls_tables() {
    local node=$1 table
    certificate "$node" >&2
    for table in client_tls peer_tls; do
        cat <<TOML

[$table]
mode = "require"
cert = "$CLUSTER_DIR/tls/$node.pem"
key = "$CLUSTER_DIR/tls/$node.key"
TOML
    done
    echo "ca = [\"$CLUSTER_DIR/tls/ca.pem\"]"
}

# The layout that the cluster is formed of.
layout_table() {
    local count index
    count=$(cluster_count)
    printf '\n[layout]\nversion = 1\n'
    for ((index = 1; index <= count; index++)); do
        cat <<TOML

[[layout.nodes]]
name = "n$index"
peer_addr = "127.0.0.1:$(peer_port "n$index")"
zone = "z$index"
TOML
    done
}

# Settles the number of nodes and the durability: what is asked for ($1, $2, either may be empty)
# must be what is there, or be new. Writes both down.
settle() {
    local count=$1 durability=$2 formed_of there_count there_durability
    if formed_of=$(cluster_count); then
        there_count=$(cluster_nodes | wc -l)
        there_durability=$(cat "$CLUSTER_DIR/durability")
        durability=${durability:-$there_durability}
        [[ ${count:-$there_count} == "$there_count" ]] ||
            die "the cluster in $CLUSTER_DIR has $there_count nodes, not $count." \
                "To add or remove some: scripts/cluster.sh add, or remove. To start over: wipe"
        count=$formed_of
        if [[ $durability != "$there_durability" ]] && any_node_runs; then
            die "the nodes run with durability $there_durability. First: scripts/cluster.sh down"
        fi
    fi
    mkdir -p "$CLUSTER_DIR"
    echo "${count:-5}" >"$CLUSTER_DIR/count"
    echo "${durability:-fsync}" >"$CLUSTER_DIR/durability"
}

any_node_runs() {
    local node
    for node in $(cluster_nodes); do
        node_pid "$node" >/dev/null && return 0
    done
    return 1
}

up() {
    local count='' durability='' secure=''
    while (($#)); do
        case $1 in
            --durability)
                durability=${2:-}
                [[ $durability == fsync || $durability == buffered ]] ||
                    die "--durability is fsync or buffered, not '$durability'"
                shift 2
                ;;
            --secure)
                secure=yes
                shift
                ;;
            *)
                [[ $1 =~ ^[0-9]+$ && $1 -ge 1 && $1 -le 64 && -z $count ]] ||
                    die "COUNT is a number from 1 to 64, not '$1' (see --help)"
                count=$((10#$1))
                shift
                ;;
        esac
    done
    ensure_prerequisites
    build_node
    if [[ $secure ]] && ! is_secure && cluster_count >/dev/null; then
        die "the cluster in $CLUSTER_DIR is without TLS. To start over: wipe"
    fi
    settle "$count" "$durability"
    if [[ $secure ]]; then touch "$CLUSTER_DIR/secure"; fi
    believe_authority
    [[ -s $CLUSTER_DIR/key ]] || (umask 077 && "$NODE_BIN" keygen >"$CLUSTER_DIR/key")
    local node nodes started=0
    mapfile -t nodes < <(cluster_nodes)
    for node in "${nodes[@]}"; do
        case $(node_state "$node") in
            paused) kill -CONT "$(node_pid "$node")" ;;
            dead)
                write_config "$node" "${#nodes[@]}" "$(cat "$CLUSTER_DIR/durability")"
                start_node "$node"
                started=$((started + 1))
                ;;
        esac
    done
    if ((started)); then
        say "Started $started of ${#nodes[@]} nodes; waiting until they are ready."
        wait_for node_answers 60 "${nodes[@]}"
        # One whose nodes have changed was formed before, and its first nodes may be gone.
        [[ -e $CLUSTER_DIR/nodes ]] || form_cluster n1 || die "the cluster could not be formed"
    fi
    wait_for node_ready 60 "${nodes[@]}"
    if ((started)); then
        say "The cluster is up: ${#nodes[@]} nodes, durability $(cat "$CLUSTER_DIR/durability")."
    else
        say "The cluster is already up: ${#nodes[@]} nodes."
    fi
    local curl=curl
    ! is_secure || curl="curl --cacert $CLUSTER_DIR/tls/ca.pem"
    say "Try:
  $curl -i -X PUT $(client_url "${nodes[0]}")/kv/cart/alice -H 'Content-Type: text/plain' -d '2 apples'
  $curl -i $(client_url "${nodes[-1]}")/kv/cart/alice
  scripts/demo.sh"
}

down() {
    cluster_count >/dev/null || {
        say "There is no cluster in $CLUSTER_DIR."
        return 0
    }
    local node pid stopped=0
    for node in $(nodes_here); do
        pid=$(node_pid "$node") || continue
        # A paused node must go on to see that it shall stop.
        kill -TERM "$pid" 2>/dev/null || true
        kill -CONT "$pid" 2>/dev/null || true
        stopped=$((stopped + 1))
    done
    for node in $(nodes_here); do
        if ! wait_gone "$node" 20; then
            warn "$node did not stop within 20 seconds; killing it."
            if pid=$(node_pid "$node"); then kill -KILL "$pid" 2>/dev/null || true; fi
            wait_gone "$node" 5 || die "$node cannot be killed"
        fi
        rm -f "$CLUSTER_DIR/$node/pid"
    done
    if ((stopped)); then say "Stopped $stopped nodes."; else say "No node was running."; fi
}

status() {
    local node nodes pid state ready
    cluster_nodes >/dev/null
    nodes=$(nodes_here)
    printf '%-5s %-8s %-7s %-12s %s\n' node pid state 'client port' ready
    for node in $nodes; do
        state=$(node_state "$node")
        pid=$(node_pid "$node") || pid=-
        ready=no
        if [[ $state == up ]] && node_ready "$node"; then
            ready=yes
        elif ! grep -qx -- "$node" <<<"$(cluster_nodes)"; then
            ready="no, it is not added"
        fi
        printf '%-5s %-8s %-7s %-12s %s\n' "$node" "$pid" "$state" "$(client_port "$node")" "$ready"
    done
}

logs() {
    local node=${1:-} follow=()
    [[ -n $node ]] || die "which node? For example: scripts/cluster.sh logs n1"
    require_node "$node"
    case ${2:-} in
        '') ;;
        -f) follow=(-f) ;;
        *) die "unknown option '$2' (see --help)" ;;
    esac
    [[ -r $CLUSTER_DIR/$node/node.log ]] || die "$node has not written a log yet"
    tail -n 100 "${follow[@]}" "$CLUSTER_DIR/$node/node.log"
}

wipe() {
    down
    # Only what this script made, whatever DEV_CLUSTER_DIR points at.
    if cluster_count >/dev/null; then
        local node
        for node in $(nodes_here); do
            rm -rf "${CLUSTER_DIR:?}/$node"
        done
        rm -rf "${CLUSTER_DIR:?}/tls"
        rm -f "$CLUSTER_DIR"/{key,count,durability,nodes,secure}
        rmdir "$CLUSTER_DIR" 2>/dev/null || true
        say "Deleted the data in $CLUSTER_DIR."
    fi
}

command=${1:-}
(($# == 0)) || shift
case $command in
    up | add | remove | replace | down | status | logs | wipe)
        for word in "$@"; do
            [[ $word != -h && $word != --help ]] || {
                usage
                exit 0
            }
        done
        "$command" "$@"
        ;;
    -h | --help | help) usage ;;
    '')
        usage >&2
        exit 2
        ;;
    *) die "unknown command '$command' (see --help)" ;;
esac
