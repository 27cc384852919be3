#!/usr/bin/env bash
# Brings one node of the local cluster back, whatever was done to it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/lib-layout.sh
source "$SCRIPTS/lib-layout.sh"

usage() {
    cat <<'HELP'
Usage: scripts/restore-node.sh NODE [--wipe]

Lets a paused node go on, or starts a dead one, and waits until it is ready.

  --wipe   start it with an empty data directory, as after the loss of a disk; only a dead one,
           and none that was added: replace that (scripts/cluster.sh replace)

Example:
  scripts/kill-node.sh n2
  scripts/restore-node.sh n2 --wipe
HELP
}

node='' wipe=0
for word in "$@"; do
    case $word in
        -h | --help)
            usage
            exit 0
            ;;
        --wipe) wipe=1 ;;
        -*) die "unknown option '$word' (see --help)" ;;
        *)
            [[ -z $node ]] || die "one node at a time: '$node' or '$word'?"
            node=$word
            ;;
    esac
done
[[ -n $node ]] || {
    usage >&2
    exit 2
}
require_node "$node"
state=$(node_state "$node")
if ((wipe)) && [[ $state != dead ]]; then
    die "$node is $state; its data is not wiped under it. First: scripts/kill-node.sh $node"
fi
if ((wipe)) && joins "$node"; then
    die "$node was added to the cluster: with an empty disk it is another node. To have a new one in its place:" \
        "scripts/cluster.sh replace $node $(next_node)"
fi
if ((wipe)); then
    rm -rf "${CLUSTER_DIR:?}/$node/data"
fi
case $state in
    up) done="was up already" ;;
    paused)
        kill -CONT "$(node_pid "$node")"
        done="goes on"
        ;;
    dead)
        [[ -x $NODE_BIN ]] || die "$NODE_BIN is missing; scripts/cluster.sh up builds it"
        start_node "$node"
        done="was started again"
        ;;
esac
if ((wipe)); then
    done="was started with an empty data directory"
    # An empty node learns from the others that the cluster is formed; one that is alone cannot.
    [[ $(cluster_count) != 1 ]] || form_cluster "$node"
fi
wait_for node_ready 60 "$node"
say "$node $done, and is ready."
