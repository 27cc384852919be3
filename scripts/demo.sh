#!/usr/bin/env bash
# The story of a quorum store in two minutes, told with curl on the local cluster; and that of a cluster that
# grows.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/demo.sh [grow]

Tells a story on the local cluster, and starts one if none runs: a write with one node dead, two
writers that did not see each other, the siblings, their inspection and resolution, and a node
killed and restored. Each command is printed before its true output, to be repeated by hand. The
nodes that it kills are started again, also when it is interrupted.

  grow  another story: the local cluster grows by two nodes while files are loaded into it; one of the nodes is
        killed meanwhile; and every file is read back. Starts three nodes if none run

Examples:
  scripts/cluster.sh up
  scripts/demo.sh
  scripts/demo.sh grow
HELP
}

story=quorums
case ${1:-} in
    '') ;;
    grow) story=grow ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) die "unknown option '$1' (see --help)" ;;
esac

# The node that this story has killed, if any, and the loader that it has started.
killed='' loader=''

clean_up() {
    local status=$?
    [[ -z $loader ]] || kill "$loader" 2>/dev/null || true
    [[ -z $killed ]] || "$SCRIPTS/restore-node.sh" "$killed" || true
    exit "$status"
}

chapter() { printf '\n\033[1m%s\033[0m\n' "$*"; }
tell() { printf '%s\n' "$@" | fold -s -w 96 | sed 's/ *$//'; }

# Prints a command, runs it, and prints what it said.
show() {
    printf '\n$ %s\n' "$1"
    local output
    output=$(eval "$1" 2>&1 | tr -d '\r') || die "that command failed: $output"
    printf '%s\n' "$output" | sed 's/^./  &/'
}

# Fails unless the last request, made again by its parts, answers with status $1. Given as: status,
# then the arguments of curl.
expect() {
    local expected=$1 status
    shift
    status=$(curl -s -o /dev/null -w '%{http_code}' "$@")
    [[ $status == "$expected" ]] || die "expected $expected, got $status from: curl $*"
}

kill_node() {
    killed=$1
    show "scripts/kill-node.sh $1"
}

restore_node() {
    show "scripts/restore-node.sh $1"
    killed=''
}

# A key of which node $1 is a home replica, with $2 in its name.
key_at_home_of() {
    local candidate index
    for ((index = 1; index <= 1000; index++)); do
        candidate=$key-$2-$index
        if curl -sf "$other/ring/demo/$candidate" |
            jq -e --arg node "$1" '.preference_list[:3] | index($node)' >/dev/null; then
            echo "$candidate"
            return 0
        fi
    done
    die "none of 1000 keys has its home at $1"
}

# Loads the files of this repository's crates again and again, until file $1 is gone.
load_on() {
    local go_on=$1
    while [[ -e $go_on ]]; do
        "$NODE_BIN" load crates --url "$(client_urls)" || return 1
    done
}

# Adds a node while the files are loaded.
add_one() {
    show "scripts/cluster.sh add"
    kill -0 "$loader" 2>/dev/null || die "the loader has failed: $(cat "$loaded")"
}

# The story of a cluster that grows under load.
grow() {
    local before quorate=${NODE_BIN#"$ROOT"/} go_on status=0
    mapfile -t before < <(cluster_nodes)
    loaded=$(mktemp)
    go_on=$(mktemp)

    chapter "1. A cluster of ${#before[@]} nodes"
    show "$quorate layout show --url $(client_url "${before[0]}")"

    chapter "2. Clients are at work"
    tell "From now on the files under crates/ are loaded, over and over, whatever happens to the cluster:"
    printf '\n$ %s\n' "while true; do $quorate load crates --url $(client_urls); done &"
    load_on "$go_on" >"$loaded" 2>&1 &
    loader=$!
    sleep 2

    chapter "3. A node joins"
    tell "A new node starts with an empty disk and asks to be added. Nothing happens until an operator says \
so. The plan shows what will move: the least that is possible."
    add_one

    chapter "4. A node dies and comes back, and another one joins"
    kill_node "${before[1]}"
    tell "" "The others go on to take the files. A change of the members waits for every node that holds data, \
so the dead one has to come back, or to be replaced (scripts/cluster.sh replace)."
    restore_node "${before[1]}"
    add_one

    chapter "5. Was anything refused or lost?"
    rm -f "$go_on"
    wait "$loader" || status=$?
    loader=''
    tell "What the loader said, each time it had been through all files:"
    sed 's/^./  &/' "$loaded"
    rm -f "$loaded"
    ((status == 0)) || die "the loader failed"
    tell "" "Every file is read back from the cluster of now, and compared:"
    show "$quorate verify crates --url $(client_urls)"
    show "$quorate layout show --url $(client_url "${before[0]}")"

    chapter "That is it."
    tell "No file was refused for good, and nothing was lost. Nodes leave in the same way: \
scripts/cluster.sh remove NODE. Clean up with: scripts/cluster.sh wipe"
}

cd "$ROOT"
ensure_prerequisites
if ! cluster_count >/dev/null; then
    tell "No cluster is here yet: starting one."
    case $story in
        grow) "$SCRIPTS/cluster.sh" up 3 ;;
        *) "$SCRIPTS/cluster.sh" up ;;
    esac
fi
for node in $(cluster_nodes); do
    if [[ $(node_state "$node") != up ]] || ! node_ready "$node"; then
        die "$node is not up. First: scripts/cluster.sh up"
    fi
done
trap clean_up EXIT
if [[ $story == grow ]]; then
    (($(cluster_nodes | wc -l) >= 3)) || die "the story needs 3 nodes: a key has three replicas"
    grow
    exit 0
fi
(($(cluster_nodes | wc -l) >= 4)) || die "the story needs 4 nodes: a home replica must have a fallback"

key=cart-$(date +%s)
# Which nodes keep this key, and in which order others stand in for them.
first=$(cluster_nodes | head -n 1)
mapfile -t list < <(curl -sf "$(client_url "$first")/ring/demo/$key" | jq -r '.preference_list[]')
((${#list[@]} >= 4)) || die "the ring does not name four nodes for demo/$key: ${list[*]}"
a=$(client_url "${list[0]}")
b=$(client_url "${list[1]}")
other=$(client_url "${list[3]}")
dead=${list[2]}

chapter "1. Who keeps a key"
tell "Any node takes any request. The ring says who keeps a key: the first three are its home \
replicas (N=3), the others stand in for them, in this order."
show "curl -s $a/ring/demo/$key | jq -c"

chapter "2. A write with one home replica dead"
kill_node "$dead"
tell "" "This write wants three copies (W=3), and still gets them: a fallback keeps the third as a \
hint for the dead node. Quorate-Acks counts durable copies, Quorate-Hints those that are hints."
show "curl -si -X PUT '$other/kv/demo/$key?w=3' -H 'Content-Type: text/plain' -d '2 apples'"
strict=$(key_at_home_of "$dead" strict)
tell "" "Three copies on the home replicas themselves, with nobody standing in, cannot be had now. \
The answer says so, and what became of the write: some copy is there, so it may still be seen."
show "curl -s -X PUT '$other/kv/demo/$strict?w=3&sloppy=false' -d 'x' | jq"
expect 503 -X PUT "$other/kv/demo/$strict?w=3&sloppy=false" -d x
restore_node "$dead"

chapter "3. Two writers that did not see each other"
tell "Both read the cart, and get the same context with it. Each writes back what it thinks right."
show "curl -si $a/kv/demo/$key"
context=$(curl -si "$a/kv/demo/$key" | tr -d '\r' | sed -n 's/^quorate-context: //Ip')
show "curl -si -X PUT $a/kv/demo/$key -H 'Content-Type: text/plain' \\
    -H 'Quorate-Context: $context' -d '3 apples'"
show "curl -si -X PUT $b/kv/demo/$key -H 'Content-Type: text/plain' \\
    -H 'Quorate-Context: $context' -d '2 apples, 1 pear'"

chapter "4. Both are kept"
tell "Neither saw the other, so neither may replace it: they are siblings. 300, and all of them."
show "curl -s -w '\n%{http_code}\n' $other/kv/demo/$key"
expect 300 "$other/kv/demo/$key"

chapter "5. Look closer"
tell "Who wrote what, and when, and what each replica holds. Looking changes nothing."
show "curl -s $a/siblings/demo/$key | jq"

chapter "6. Resolve it"
tell "Someone who saw both decides, and sends the context of both back."
context=$(curl -si "$a/kv/demo/$key" | tr -d '\r' | sed -n 's/^quorate-context: //Ip')
show "curl -si -X POST $a/siblings/demo/$key -H 'Content-Type: application/json' \\
    -H 'Quorate-Context: $context' \\
    -d '{\"value\": \"3 apples, 1 pear\", \"content_type\": \"text/plain\"}'"
show "curl -si $b/kv/demo/$key"
expect 200 "$b/kv/demo/$key"

chapter "7. A node dies, misses a write, and comes back"
kill_node "$dead"
missed=$(key_at_home_of "$dead" missed)
show "curl -si -X PUT $a/kv/demo/$missed -H 'Content-Type: text/plain' -d 'while $dead was dead'"
show "curl -s $other/kv/demo/$key"
restore_node "$dead"
tell "" "A read that all home replicas answer sees which of them is behind, and repairs it."
show "curl -s '$a/kv/demo/$missed?r=all&sloppy=false'"
tell "" "So every replica holds it:"
show "curl -s $a/siblings/demo/$missed | jq -c '.replicas[]'"

chapter "That is it."
tell "Nothing that was acknowledged was lost, and what conflicted was shown. To watch a cluster grow: \
scripts/demo.sh grow. Clean up with: scripts/cluster.sh wipe"
