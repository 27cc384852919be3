#!/usr/bin/env bash
# Takes the guided tour by itself: runs every command of docs/tour.md on a cluster of its own, and compares
# what it prints with what the document says it prints.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
export DEV_CLUSTER_DIR=${DEV_CLUSTER_DIR:-${here%/*}/target/tour-cluster}
export DEV_CLIENT_PORT_BASE=${DEV_CLIENT_PORT_BASE:-8600}
export DEV_PEER_PORT_BASE=${DEV_PEER_PORT_BASE:-8700}
# shellcheck source=scripts/lib.sh
source "$here/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/tour-check.sh [--update]

Runs each command of docs/tour.md (the lines of its console blocks that start with "$ ") in one shell, on a
fresh cluster with ports and a directory of its own, and fails if any prints something else than the tour
says. What differs from run to run is not compared: contexts, ids, times, process numbers.

  --update   write what was printed into docs/tour.md instead

Example:
  scripts/tour-check.sh
HELP
}

update=0
for word in "$@"; do
    case $word in
        -h | --help)
            usage
            exit 0
            ;;
        --update) update=1 ;;
        *) die "unknown option '$word' (see --help)" ;;
    esac
done

TOUR=$ROOT/docs/tour.md
# The longest that the tour may take, in seconds: a command that waits for what never comes ends then.
TOUR_S=300
[[ $CLIENT_PORT_BASE == *0 ]] || die "DEV_CLIENT_PORT_BASE must end with 0, not be $CLIENT_PORT_BASE"

# Stands in for what differs from run to run.
mask() {
    sed -E \
        -e 's/\r$//' \
        -e 's/^(quorate-context|x-request-id|date|last-modified|etag): .*/\1: …/I' \
        -e 's/"[0-9a-f]{16}-([0-9]+)"/"…-\1"/g' \
        -e 's/"(written_at|at|id|request_id)":"[^"]*"/"\1":"…"/g' \
        -e 's/[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z/…/g' \
        -e 's/\(SIG([A-Z]+), process [0-9]+\)/(SIG\1, process …)/' \
        -e 's/"([a-z_]+_(ms|us))":[0-9]+/"\1":…/g'
}

# The client ports and the directory of the tour in place of those used here ("out"), or the ports the other
# way round ("in").
ports() {
    local tour=127.0.0.1:740 here=127.0.0.1:${CLIENT_PORT_BASE%0}
    case $1 in
        in) sed "s/${tour//./\\.}/$here/g" ;;
        out) sed "s/${here//./\\.}/$tour/g; s|$CLUSTER_DIR|target/cluster|g" ;;
    esac
}

# Runs a command of the tour in this shell, so that its variables stay; prints into file $2.
run() {
    local command
    command=$(ports in <<<"$1")
    set +eu
    eval "$command" >"$2.raw" 2>&1 </dev/null
    set -eu
    tr -d '\r' <"$2.raw" | ports out >"$2"
}

clean_up() {
    local status=$?
    kill "$watchdog" 2>/dev/null || true
    # From the shell of the tour nothing else is left behind.
    "$SCRIPTS/cluster.sh" wipe >/dev/null 2>&1 || warn "the cluster in $DEV_CLUSTER_DIR is left behind"
    rm -rf "$work"
    exit "$status"
}

# Compares what the current command printed with what the tour says, and keeps it for --update.
settle() {
    [[ -n $command ]] || return 0
    printf '%s' "$expected" >"$work/expected"
    cat "$work/printed" >>"$work/tour"
    if ! diff -u --label "docs/tour.md:$command_line" --label "printed" \
        <(mask <"$work/expected") <(mask <"$work/printed") >"$work/diff"; then
        differences=$((differences + 1))
        ((update)) || {
            say "" "\$ $command"
            sed 1,2d "$work/diff"
        }
    fi
    command='' expected=''
}

cd "$ROOT"
ensure_prerequisites
build_node
work=$(mktemp -d)
(sleep "$TOUR_S" && warn "error: the tour takes over $TOUR_S s" && kill $$) &
watchdog=$!
trap clean_up EXIT
"$SCRIPTS/cluster.sh" wipe >/dev/null

commands=0 differences=0 line_number=0 in_block=0 command='' expected='' command_line=0 reading=0
started=$SECONDS
while IFS= read -r line; do
    line_number=$((line_number + 1))
    if ((!in_block)); then
        printf '%s\n' "$line" >>"$work/tour"
        [[ $line != '```console' ]] || in_block=1
    elif [[ $line == '```' ]]; then
        settle
        in_block=0
        printf '%s\n' "$line" >>"$work/tour"
    elif ((reading)) || [[ $line == '$ '* ]]; then
        # A command, which goes on after a backslash.
        ((reading)) || settle
        printf '%s\n' "$line" >>"$work/tour"
        if ((reading)); then
            command+=$'\n'$line
        else
            command=${line#'$ '} command_line=$line_number
        fi
        reading=0
        if [[ $line == *\\ ]]; then
            reading=1
        else
            commands=$((commands + 1))
            run "$command" "$work/printed"
        fi
    else
        expected+=$line$'\n'
    fi
done <"$TOUR"
((!in_block)) || die "docs/tour.md: the last block is not closed"
((commands)) || die "docs/tour.md has no commands"

if ((update)); then
    cp "$work/tour" "$TOUR"
    say "Wrote docs/tour.md: $commands commands, $differences printed something else than before."
elif ((differences)); then
    die "$differences of $commands commands print something else than the tour says" \
        "(scripts/tour-check.sh --update writes down what they print)"
else
    say "The tour is true: $commands commands, $((SECONDS - started)) s."
fi
