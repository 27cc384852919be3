# shellcheck shell=bash
# Adding nodes to the local cluster and removing them while it runs. Sourced by cluster.sh, never run.

# Whether node $1 was added to the cluster: the others are those that it was formed of.
joins() { [[ -e $CLUSTER_DIR/$1/joins ]]; }

# The nodes of the cluster, and those that wait to be added.
nodes_here() {
    local file
    {
        cluster_nodes
        for file in "$CLUSTER_DIR"/n*/joins; do
            [[ ! -e $file ]] || basename "$(dirname "$file")"
        done
    } | sort -t n -k 2 -n -u
}

# The settings of node $1 that make it ask the other nodes to be added.
join_settings() {
    local node nodes list=''
    nodes=$(cluster_nodes)
    for node in $nodes; do
        [[ $node == "$1" ]] || list+=", \"127.0.0.1:$(peer_port "$node")\""
    done
    # A node asks at most 16, and hears of the others.
    list=$(cut -d, -f1-16 <<<"${list#, }")
    printf 'join = [%s]\nzone = "z%s"\n' "$list" "${1#n}"
}

# quorate layout, asked of the nodes that run.
layout() {
    local node urls=''
    for node in $(cluster_nodes); do
        [[ $(node_state "$node") != up ]] || urls+=,$(client_url "$node")
    done
    [[ -n $urls ]] || die "no node runs. First: scripts/cluster.sh up"
    "$NODE_BIN" layout "$@" --url "${urls#,}"
}

# Writes down that the nodes of the cluster are now those whose names are read.
set_nodes() {
    sort -t n -k 2 -n -u >"$CLUSTER_DIR/nodes.new"
    mv "$CLUSTER_DIR/nodes.new" "$CLUSTER_DIR/nodes"
}

# The next name that no node has.
next_node() {
    local last
    last=$(cluster_nodes | tail -n 1)
    echo "n$((${last#n} + 1))"
}

# Fails unless $1 can be the name of a new node.
require_new_name() {
    [[ $1 =~ ^n[1-9][0-9]?$ ]] || die "a node's name is n and a number from 1 to 99, not '$1'"
    ! grep -qx -- "$1" <<<"$(cluster_nodes)" || die "$1 is a node of the cluster already"
}

# Starts the new node $1 with an empty disk, and waits until the members know that it waits. It is not in the list
# of nodes yet.
start_newcomer() {
    local node=$1 nodes
    nodes=$(cluster_nodes)
    if node_pid "$node" >/dev/null; then
        say "$node runs already; going on with it."
    else
        rm -rf "${CLUSTER_DIR:?}/$node"
        mkdir -p "$CLUSTER_DIR/$node"
        touch "$CLUSTER_DIR/$node/joins"
        write_config "$node" "$(($(wc -l <<<"$nodes") + 1))" "$(cat "$CLUSTER_DIR/durability")"
        start_node "$node"
    fi
    wait_for node_is_expected 30 "$node"
}

# Stops node $1, which is no member any more, and deletes its data.
drop_node() {
    local node=$1 pid
    if pid=$(node_pid "$node"); then
        kill -TERM "$pid" 2>/dev/null || true
        kill -CONT "$pid" 2>/dev/null || true
        if ! wait_gone "$node" 20; then
            kill -KILL "$pid" 2>/dev/null || true
            wait_gone "$node" 5 || die "$node cannot be killed"
        fi
    fi
    cluster_nodes | grep -vx -- "$node" | set_nodes
    rm -rf "${CLUSTER_DIR:?}/$node"
}

add() {
    local node=${1:-}
    (($# <= 1)) || die "one node at a time (see --help)"
    cluster_nodes >/dev/null
    node=${node:-$(next_node)}
    require_new_name "$node"
    start_newcomer "$node"
    say "$node waits to be added."
    layout commit --add "$node" --yes || die "$node was not added, and goes on waiting"
    { cluster_nodes && echo "$node"; } | set_nodes
    layout wait
    wait_for node_ready 60 "$node"
    say "Added $node: $(client_url "$node")"
}

remove() {
    local node=${1:-}
    [[ -n $node && $# == 1 ]] || die "which node? For example: scripts/cluster.sh remove n2"
    require_node "$node"
    layout commit --remove "$node" --yes || die "$node was not removed"
    layout wait
    drop_node "$node"
    say "Removed $node."
}

replace() {
    local dead=${1:-} new=${2:-}
    [[ -n $dead && -n $new && $# == 2 ]] ||
        die "which nodes? For example: scripts/cluster.sh replace n3 n7"
    require_node "$dead"
    require_new_name "$new"
    [[ $(node_state "$dead") == dead ]] ||
        die "$dead runs. To replace it nevertheless: scripts/cluster.sh add, then remove $dead"
    start_newcomer "$new"
    say "$new waits to take the place of $dead."
    # That the node is dead for good is what this command says, with what follows from it.
    layout commit --replace "$dead=$new" --gone "$dead" --accept writes_of_gone_lost --yes ||
        die "$dead was not replaced, and $new goes on waiting"
    { cluster_nodes && echo "$new"; } | set_nodes
    layout wait
    drop_node "$dead"
    wait_for node_ready 60 "$new"
    say "$new has replaced $dead: $(client_url "$new")"
}
