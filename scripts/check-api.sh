#!/usr/bin/env bash
# Holds a running cluster against its own description with a tool that knows nothing of Quorate.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/check-api.sh [--examples COUNT] [--seed SEED]

Starts `quorate dev` and lets schemathesis (installed from PyPI into the target directory) send it what
docs/openapi.json allows and what it forbids, COUNT requests an operation (default 50). Fails if an answer is
not described, is a 500, or accepts what the description forbids.

Example:
  scripts/check-api.sh --examples 500
HELP
}

examples=50 seed=1 port=${CHECK_API_PORT:-7701}
while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --examples | --seed)
            (($# > 1)) || die "$1 needs a value (see --help)"
            [[ $2 =~ ^[0-9]{1,9}$ ]] || die "$1 must be a whole number, not '$2'"
            [[ $1 == --seed ]] && seed=$2 || examples=$2
            shift
            ;;
        *) die "unknown option '$1' (see --help)" ;;
    esac
    shift
done

has python3 || die "python3 is needed: apt-get install python3 python3-venv"
build_node
venv=$TARGET/check-api
if [[ ! -x $venv/bin/schemathesis ]]; then
    say "Installing schemathesis into $venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" --quiet install 'schemathesis==4.32.5'
fi

"$NODE_BIN" dev --nodes 3 --port "$port" >"$TARGET/check-api.log" 2>&1 &
node=$!
trap 'kill "$node" 2>/dev/null || true; wait "$node" 2>/dev/null || true' EXIT
url=http://127.0.0.1:$port
for _ in {1..100}; do
    curl -sf "$url/readyz" >/dev/null && break
    kill -0 "$node" 2>/dev/null || die "the node did not start: $(tail -n 3 "$TARGET/check-api.log")"
    sleep 0.1
done

# Not checked: that whatever fits the schemas is accepted. A cursor, a sync point or a dot is a string, and
# still must be one that the node gave out. Nor that nothing is 5xx: 503 is a right answer to timeout_ms=1, and
# a 500 is found in the log. /events does not end by itself.
check() {
    # It leaves a cache in the directory where it runs.
    cd "$venv"
    bin/schemathesis run "$ROOT/docs/openapi.json" --url "$url" --seed "$seed" --max-examples "$examples" \
        --exclude-path /events --phases examples,coverage,fuzzing --workers 1 --no-color --checks \
        status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection,unsupported_method
}
(check)
! grep -q "answered 500" "$TARGET/check-api.log" || die "a request was answered 500; see $TARGET/check-api.log"
kill -0 "$node" 2>/dev/null || die "the node did not survive: $(tail -n 3 "$TARGET/check-api.log")"
