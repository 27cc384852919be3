#!/usr/bin/env bash
# The story of a quorum store in two minutes, told with curl on the local cluster.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/demo.sh

Tells a story on the local cluster, and starts one if none runs: a write with one node dead, two
writers that did not see each other, the siblings, their inspection and resolution, and a node
killed and restored. Each command is printed before its true output, to be repeated by hand. The
nodes that it kills are started again, also when it is interrupted.

Example:
  scripts/cluster.sh up
  scripts/demo.sh
HELP
}

case ${1:-} in
    '') ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) die "unknown option '$1' (see --help)" ;;
esac

# The node that this story has killed, if any.
killed=''

clean_up() {
    local status=$?
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

cd "$ROOT"
ensure_prerequisites
if ! cluster_count >/dev/null; then
    tell "No cluster is here yet: starting one."
    "$SCRIPTS/cluster.sh" up
fi
for node in $(cluster_nodes); do
    if [[ $(node_state "$node") != up ]] || ! node_ready "$node"; then
        die "$node is not up. First: scripts/cluster.sh up"
    fi
done
(($(cluster_count) >= 4)) || die "the story needs 4 nodes: a home replica must have a fallback"
trap clean_up EXIT

key=cart-$(date +%s)
# Which nodes keep this key, and in which order others stand in for them.
mapfile -t list < <(curl -sf "$(client_url n1)/ring/demo/$key" | jq -r '.preference_list[]')
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
tell "Nothing that was acknowledged was lost, and what conflicted was shown. Clean up with: \
scripts/cluster.sh wipe"
