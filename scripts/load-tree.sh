#!/usr/bin/env bash
# Stores every file under a directory in the local cluster: real input.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/load-tree.sh DIR [OPTION…]

Stores every regular file under DIR as /kv/files/<path relative to DIR> with its content type, many
at a time over all nodes of the local cluster, with a progress bar. Fails if any file was not
stored, or was read back different.

  --verify             then read each back from another node than took it, and compare
  --verify-node URL    the same, from this node
  --verify-only        store nothing, only compare
  --patience SECONDS   how long one file is retried (60)
  --concurrency N      files in flight at a time (64)
  --bucket NAME        the bucket (files)

Example: all sources of your Rust dependencies, with a node killed half-way.
  scripts/load-tree.sh ~/.cargo/registry/src --verify &
  sleep 5; scripts/kill-node.sh n2; wait
HELP
}

for word in "$@"; do
    [[ $word != -h && $word != --help ]] || {
        usage
        exit 0
    }
done
(($#)) || {
    usage >&2
    exit 2
}
[[ -d $1 ]] || die "'$1' is not a directory"
urls=$(client_urls)
ensure_prerequisites
build_node
command=load
options=()
for word in "${@:2}"; do
    if [[ $word == --verify-only ]]; then command=verify; else options+=("$word"); fi
done
exec "$NODE_BIN" "$command" "$1" --url "$urls" "${options[@]}"
