#!/usr/bin/env bash
# Cuts nodes of the local cluster off from the others' peer traffic, without root: through the
# fault hook on the peer port, which exists only where the config says fault_hook = true.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/partition.sh NODE… [--one-way in|out]
       scripts/partition.sh --heal
       scripts/partition.sh --show

Splits the cluster in two: the named nodes here, all others there. Messages between the two sides
vanish silently; clients reach every node as before. A new partition replaces the last one.

  --one-way in    only what goes to the named nodes vanishes
  --one-way out   only what comes from them vanishes
  --heal          everything gets through again
  --show          what is cut now

Example, with five nodes: n1 and n2 lose the majority.
  scripts/partition.sh n1 n2
  curl -i -X PUT 'http://127.0.0.1:7401/kv/cart/alice?w=3&sloppy=false' -d '2 apples'
  scripts/partition.sh --heal
HELP
}

# A JSON list of the words given.
json_list() { jq -cn '$ARGS.positional' --args -- "$@"; }

# Sets the faults of node $1 to the JSON $2. Dead and paused nodes are skipped: a node forgets
# its faults when it starts.
set_faults() {
    local node=$1 faults=$2 state answer
    state=$(node_state "$node")
    if [[ $state != up ]]; then
        say "$node: skipped, it is $state"
        return 0
    fi
    answer=$(curl -sS -m 5 -w '\n%{http_code}' -X PUT -H 'Content-Type: application/json' \
        -d "$faults" "$(peer_url "$node")/fault") || die "$node does not answer on its peer port"
    [[ ${answer##*$'\n'} == 2* ]] || die "$node refused the faults: $answer"
    say "$node: $faults"
}

# Whether word $1 is among those after it.
among() {
    local word=$1 other
    shift
    for other in "$@"; do
        [[ $word != "$other" ]] || return 0
    done
    return 1
}

named=() one_way='' action=cut
while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --heal) action=heal ;;
        --show) action=show ;;
        --one-way)
            one_way=${2:-}
            [[ $one_way == in || $one_way == out ]] || die "--one-way is in or out, not '$one_way'"
            shift
            ;;
        -*) die "unknown option '$1' (see --help)" ;;
        *)
            require_node "$1"
            named+=("$1")
            ;;
    esac
    shift
done
mapfile -t nodes < <(cluster_nodes)
((${#nodes[@]})) || exit 1
others=()
for node in "${nodes[@]}"; do
    among "$node" "${named[@]}" || others+=("$node")
done

case $action in
    heal)
        ((!${#named[@]})) || die "--heal heals all nodes; name none"
        for node in "${nodes[@]}"; do set_faults "$node" '{}'; done
        ;;
    show)
        for node in "${nodes[@]}"; do
            if [[ $(node_state "$node") == up ]]; then
                say "$node: $(curl -sS -m 5 "$(peer_url "$node")/fault")"
            else
                say "$node: $(node_state "$node")"
            fi
        done
        ;;
    cut)
        ((${#named[@]})) || {
            usage >&2
            exit 2
        }
        ((${#others[@]})) || die "that names every node: there is nobody left to be cut off from"
        # Each cut is made on both sides, so that it holds even if one side is restarted.
        for node in "${nodes[@]}"; do
            if among "$node" "${named[@]}"; then
                far=$(json_list "${others[@]}")
                case $one_way in
                    in) faults="{\"cut_in\":$far,\"cut_out\":[]}" ;;
                    out) faults="{\"cut_in\":[],\"cut_out\":$far}" ;;
                    *) faults="{\"cut_in\":$far,\"cut_out\":$far}" ;;
                esac
            else
                far=$(json_list "${named[@]}")
                case $one_way in
                    in) faults="{\"cut_in\":[],\"cut_out\":$far}" ;;
                    out) faults="{\"cut_in\":$far,\"cut_out\":[]}" ;;
                    *) faults="{\"cut_in\":$far,\"cut_out\":$far}" ;;
                esac
            fi
            set_faults "$node" "$faults"
        done
        ;;
esac
