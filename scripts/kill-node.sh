#!/usr/bin/env bash
# Takes one node of the local cluster away, in one of three ways.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/kill-node.sh NODE [--pause | --stop]

  (no option)  SIGKILL: gone at once, as in a crash; its data stays
  --pause      SIGSTOP: there, but silent, as in a long stall
  --stop       SIGTERM: a graceful stop

scripts/restore-node.sh NODE brings it back.

Example:
  scripts/kill-node.sh n2
  curl -i -X PUT http://127.0.0.1:7401/kv/cart/alice -d '2 apples'   # still taken
  scripts/restore-node.sh n2
HELP
}

node='' signal=KILL
for word in "$@"; do
    case $word in
        -h | --help)
            usage
            exit 0
            ;;
        --pause) signal=STOP ;;
        --stop) signal=TERM ;;
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
pid=$(node_pid "$node") || {
    say "$node is dead already."
    exit 0
}
kill "-$signal" "$pid"
case $signal in
    STOP) say "$node is paused (SIGSTOP, process $pid)." ;;
    KILL)
        wait_gone "$node" 10 || die "$node (process $pid) does not go away"
        say "$node is dead (SIGKILL, process $pid)."
        ;;
    TERM)
        # A paused node must go on to see that it shall stop.
        kill -CONT "$pid" 2>/dev/null || true
        wait_gone "$node" 30 || die "$node (process $pid) did not stop within 30 seconds"
        say "$node has stopped (SIGTERM, process $pid)."
        ;;
esac
