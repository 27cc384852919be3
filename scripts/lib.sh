# shellcheck shell=bash disable=SC2034
# What the scripts share: paths, prerequisites, the build, and the nodes of the local cluster.
# Sourced, never run. The settings, all optional, are environment variables (not QUORATE_…: those are
# the node's own):
#   DEV_CLUSTER_DIR       where the local cluster lives         (target/cluster)
#   DEV_CLIENT_PORT_BASE  node n1 listens on this port plus 1   (7400)
#   DEV_PEER_PORT_BASE    the same, for its peers               (7500)
#   DEV_NODE_BIN          a node binary to use instead of building one

shopt -s inherit_errexit

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
SCRIPTS=$ROOT/scripts
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
CLUSTER_DIR=${DEV_CLUSTER_DIR:-$ROOT/target/cluster}
CLIENT_PORT_BASE=${DEV_CLIENT_PORT_BASE:-7400}
PEER_PORT_BASE=${DEV_PEER_PORT_BASE:-7500}
NODE_BIN=${DEV_NODE_BIN:-$TARGET/release/quorate}
BENCH_BIN=$TARGET/release/quorate-bench

# What compiling RocksDB and running the scripts needs on Debian and Ubuntu.
PACKAGES=(build-essential clang libclang-dev curl jq)

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }
die() {
    warn "error: $*"
    exit 1
}

# --- Prerequisites -------------------------------------------------------------------------------

has() { command -v "$1" >/dev/null 2>&1; }

has_libclang() {
    [[ -n ${LIBCLANG_PATH:-} ]] || compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null ||
        compgen -G '/usr/lib*/libclang*.so*' >/dev/null ||
        compgen -G '/usr/lib/*-linux-gnu/libclang*.so*' >/dev/null
}

# Names what is missing, one word each.
missing_prerequisites() {
    has c++ || echo "a C++ compiler,"
    has clang++ || echo "clang,"
    has_libclang || echo "libclang,"
    has curl || echo "curl,"
    has jq || echo "jq,"
}

# Makes sure that everything needed to build and run is there: installs it on Debian and Ubuntu
# when it may (root, or sudo without a password), else says exactly what to do.
ensure_prerequisites() {
    if ! has cargo && [[ -x $HOME/.cargo/bin/cargo ]]; then
        PATH=$HOME/.cargo/bin:$PATH
    fi
    has cargo || die "cargo is not installed. Get Rust from https://rustup.rs, then run this again."
    local missing
    missing=$(missing_prerequisites | tr '\n' ' ')
    [[ -n $missing ]] || return 0
    local sudo=()
    [[ $(id -u) == 0 ]] || sudo=(sudo -n)
    local install="apt-get update && apt-get install -y --no-install-recommends ${PACKAGES[*]}"
    if has apt-get && { [[ $(id -u) == 0 ]] || sudo -n true 2>/dev/null; }; then
        say "Installing what is missing: ${missing%, }"
        "${sudo[@]}" apt-get update -qq
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
            --no-install-recommends "${PACKAGES[@]}" >/dev/null
        return 0
    fi
    warn "Missing: ${missing%, }"
    die "install it, then run this again. On Debian or Ubuntu, as root:
  $install"
}

# shellcheck source=scripts/lib-build.sh
source "$SCRIPTS/lib-build.sh"

# --- The local cluster -------------------------------------------------------------------------

# The number of nodes that the cluster in CLUSTER_DIR was made with; fails if there is none.
cluster_count() {
    [[ -r $CLUSTER_DIR/count ]] && cat "$CLUSTER_DIR/count"
}

# The names of its nodes, in order: those that it was made with, unless some were added or removed since.
cluster_nodes() {
    local count index
    if [[ -r $CLUSTER_DIR/nodes ]]; then
        cat "$CLUSTER_DIR/nodes"
        return 0
    fi
    count=$(cluster_count) ||
        die "there is no cluster in $CLUSTER_DIR. Start one: scripts/cluster.sh up"
    for ((index = 1; index <= count; index++)); do
        echo "n$index"
    done
}

# Fails with the list of nodes unless $1 is one of them.
require_node() {
    local nodes
    nodes=$(cluster_nodes) || exit 1
    grep -qx -- "$1" <<<"$nodes" ||
        die "there is no node '$1' here; the nodes are: ${nodes//$'\n'/ }"
}

client_port() { echo $((CLIENT_PORT_BASE + ${1#n})); }
peer_port() { echo $((PEER_PORT_BASE + ${1#n})); }
client_url() { echo "$(client_scheme)://127.0.0.1:$(client_port "$1")"; }
# Whether the ports of the local cluster speak TLS alone.
is_secure() { [[ -e $CLUSTER_DIR/secure ]]; }
client_scheme() { if is_secure; then echo https; else echo http; fi; }
# Lets curl and `quorate` believe the authority of a secure cluster.
believe_authority() {
    if is_secure; then
        export CURL_CA_BUNDLE=$CLUSTER_DIR/tls/ca.pem QUORATE_CA=$CLUSTER_DIR/tls/ca.pem
    fi
}
peer_url() { echo "http://127.0.0.1:$(peer_port "$1")"; }

# The client URLs of all nodes, with commas.
client_urls() {
    local node nodes list=''
    nodes=$(cluster_nodes) || return 1
    for node in $nodes; do
        list+=,$(client_url "$node")
    done
    echo "${list#,}"
}

# --- Processes ---------------------------------------------------------------------------------

# What /proc/PID/stat says behind the name, which may hold anything: the state first, the start
# 20th.
process_fields() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    echo "${stat##*) }"
}

# When process $1 started, in clock ticks since boot. Fails if it is
# gone, or dead and not yet collected by its parent.
process_start() {
    local fields
    read -ra fields <<<"$(process_fields "$1")"
    # A process whose first thread is gone holds its ports until the last one is.
    [[ ${#fields[@]} -ge 20 && (${fields[0]} != [ZX] || ${fields[17]} -gt 1) ]] && echo "${fields[19]}"
}

# The process of node $1; fails if it does not run. A process that only happens to have
# the number that the node had is not the node's.
node_pid() {
    local pid start
    read -r pid start 2>/dev/null <"$CLUSTER_DIR/$1/pid" || return 1
    [[ -n $start && $(process_start "$pid") == "$start" ]] || return 1
    echo "$pid"
}

# The processes of all nodes, with commas.
node_pids() {
    local node list=''
    for node in $(cluster_nodes); do
        list+=,$(node_pid "$node") || die "$node does not run"
    done
    echo "${list#,}"
}

# Ends processes that this script has started.
end_processes() {
    local process
    for process in "$@"; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
}

# What the processes of all nodes have had written to disk, in bytes.
disk_bytes() {
    local node
    for node in $(cluster_nodes); do cat "/proc/$(node_pid "$node")/io"; done |
        awk '$1 == "write_bytes:" { sum += $2 } END { printf "%d\n", sum }'
}

# up, paused or dead.
node_state() {
    local pid
    pid=$(node_pid "$1") || {
        echo dead
        return 0
    }
    case $(process_fields "$pid") in
        T*) echo paused ;;
        '') echo dead ;;
        *) echo up ;;
    esac
}

# Whether node $1 answers at all, ready or not.
node_answers() {
    curl -s -m 1 -o /dev/null "$(client_url "$1")/readyz"
}

# Whether node $1 takes requests.
node_ready() {
    curl -sf -m 1 -o /dev/null "$(client_url "$1")/readyz"
}

# Whether node $1 waits to be added, and the members know.
node_is_expected() {
    local page
    page=$(curl -s -m 1 "$(client_url "$1")/readyz") || return 1
    [[ $page == *'waiting to be added'* && $page != *'('* ]]
}

port_busy() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Fails if port $1, wanted as $2, is taken, and says by whom if it can.
require_free_port() {
    port_busy "$1" || return 0
    local holder=
    has ss && holder=$(ss -ltnpH "sport = :$1" 2>/dev/null | grep -o 'users:.*' || true)
    die "port $1 ($2) is busy: another program listens there." \
        "${holder:-"Find it with: ss -ltnp 'sport = :$1'"}"
}

# Starts node $1, whose config is written, and does not wait for it.
start_node() {
    local node=$1 directory=$CLUSTER_DIR/$1 pid
    require_free_port "$(client_port "$node")" "client port of $node"
    require_free_port "$(peer_port "$node")" "peer port of $node"
    # A process group of its own: Ctrl-C in the terminal is not for the nodes. Not a session of its own: Linux
    # gives every session an equal share of the processors (sched(7), autogroup), so that a node's background
    # threads would give way to its own requests, but not to those of the other nodes beside it.
    set -m
    (
        trap '' HUP
        exec "$NODE_BIN" serve --config "$directory/node.toml"
    ) >>"$directory/node.log" 2>&1 </dev/null &
    pid=$!
    set +m
    echo "$pid $(process_start "$pid")" >"$directory/pid"
}

# Waits until check $1 (such as node_answers or node_ready) holds for the nodes given after the bound $2, in
# seconds. Fails at once, with its last words, if one of them stops.
wait_for() {
    local check=$1 deadline=$((SECONDS + $2)) node waiting
    shift 2
    for node in "$@"; do
        waiting=0
        until "$check" "$node"; do
            if [[ $(node_state "$node") == dead ]]; then
                tail -n 20 "$CLUSTER_DIR/$node/node.log" >&2 || true
                die "$node has stopped; above are the last lines of $CLUSTER_DIR/$node/node.log"
            fi
            if ((SECONDS >= deadline)); then
                curl -s -m 2 "$(client_url "$node")/readyz" >&2 || true
                die "$node is not ready in time; see scripts/cluster.sh logs $node"
            fi
            ((++waiting % 25)) || say "  still waiting for $node …"
            sleep 0.2
        done
    done
}

# Waits until node $1 is gone, for at most $2 seconds; fails if it is not.
wait_gone() {
    local deadline=$((SECONDS + $2))
    while node_pid "$1" >/dev/null; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

# Makes every node record that the cluster is formed; nothing happens where it did so already.
form_cluster() {
    "$NODE_BIN" form --config "$CLUSTER_DIR/$1/node.toml" --timeout-ms "${2:-30000}"
}

believe_authority
