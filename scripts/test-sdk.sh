#!/usr/bin/env bash
# The checks of the clients in sdk/: format, types, tests, and the conformance cases against a cluster.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/test-sdk.sh [python|typescript]… [--url URLS]

Starts three nodes with `quorate dev` (ports 8801…, peers 8901…; another first port: DEV_SDK_PORT), and three
that take TLS and tokens alone (ten ports above), runs what is asked for, both by default, and stops the nodes
again:

  python      ruff, mypy --strict, pytest and the conformance cases, sync and async
  typescript  prettier, tsc, node's test runner and the conformance cases

  --url URLS  use this cluster (with commas) instead of starting one; nothing is tested with TLS and tokens

The node is QUORATE_BIN, or target/release/quorate. Tools are installed into target/sdk/ and
sdk/typescript/node_modules, neither of which is part of the repository. Needs python3 (3.10 or later) with
venv, node (20 or later) with npm, and their package registries.

Example:
  scripts/test-sdk.sh python
HELP
}

languages=() urls=''
while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        python | typescript) languages+=("$1") ;;
        --url)
            [[ -n ${2:-} ]] || die "--url wants a value (see --help)"
            urls=$2
            shift
            ;;
        *) die "unknown word '$1' (see --help)" ;;
    esac
    shift
done
((${#languages[@]})) || languages=(python typescript)
PORT=${DEV_SDK_PORT:-8801}
[[ $PORT =~ ^[1-9][0-9]{3,4}$ && $PORT -le 65000 ]] || die "DEV_SDK_PORT is a port, not '$PORT'"
BIN=${QUORATE_BIN:-$NODE_BIN}
WORK=$TARGET/sdk
# The node takes every other QUORATE_* variable for a setting of its own.
unset QUORATE_BIN QUORATE_URL QUORATE_TOKEN

node_processes=()
secure=()

# shellcheck disable=SC2317 # a trap calls it
clean_up() { end_processes "${node_processes[@]}"; }
trap clean_up EXIT
trap 'exit 130' INT TERM

is_ready() { curl -sf -m 1 -o /dev/null "http://127.0.0.1:$1/readyz"; }

# Waits a moment for $1, process $2 with log $3, which must be ready before second $4.
wait_on() {
    kill -0 "$2" 2>/dev/null || {
        cat "$3" >&2
        die "$1 has stopped; above is what it said"
    }
    ((SECONDS < $4)) || die "$1 is not ready after a minute; see $3"
    sleep 0.2
}

# Starts the cluster and waits until its nodes are ready.
start_cluster() {
    local log=$WORK/cluster.log deadline=$((SECONDS + 60)) at
    [[ -x $BIN ]] || die "there is no node at $BIN. Build it: cargo build --release --locked --bin quorate"
    for at in 0 1 2; do
        require_free_port $((PORT + at)) "client port of a node"
        require_free_port $((PORT + at + 100)) "peer port of a node"
    done
    "$BIN" dev --nodes 3 --port "$PORT" >"$log" 2>&1 </dev/null &
    node_processes+=($!)
    for at in 0 1 2; do
        until is_ready $((PORT + at)); do
            wait_on "the cluster" "${node_processes[0]}" "$log" "$deadline"
        done
    done
    urls=http://127.0.0.1:$PORT,http://127.0.0.1:$((PORT + 1)),http://127.0.0.1:$((PORT + 2))
}

# Starts the cluster that takes TLS and tokens alone. It says its authority and a token once it is ready.
start_secure() {
    local log=$WORK/secure.log deadline=$((SECONDS + 60)) port=$((PORT + 10)) at ca token
    : >"$log" # not the lines of a run before
    for at in 0 1 2; do
        require_free_port $((port + at)) "client port of a node"
        require_free_port $((port + at + 100)) "peer port of a node"
    done
    "$BIN" dev --nodes 3 --port "$port" --tls --auth >"$log" 2>&1 </dev/null &
    node_processes+=($!)
    until grep -q '^Console: ' "$log"; do
        wait_on "the cluster with TLS" "${node_processes[1]}" "$log" "$deadline"
    done
    ca=$(sed -n 's/.* --ca //p' "$log")
    token=$(sed -n 's/.*export QUORATE_TOKEN=//p' "$log")
    [[ -f $ca && $token == qk_* ]] || die "the cluster with TLS says no authority or no token; see $log"
    secure=("QUORATE_SECURE_URL=https://127.0.0.1:$port" "QUORATE_SECURE_CA=$ca" "NODE_EXTRA_CA_CERTS=$ca"
        "QUORATE_SECURE_TOKEN=$token")
}

# Runs a command. Tokens do not show: they are in the environment.
run() {
    say "== $*"
    "$@"
}

check_python() {
    local bin=$WORK/venv/bin
    has python3 || die "python3 is not installed"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || die "python3 must be 3.10 or later"
    [[ -x $bin/python ]] || python3 -m venv "$WORK/venv" || die "install the venv module of python3"
    "$bin/python" -m pip install --quiet --editable "$ROOT/sdk/python[routing,dev]"
    cd "$ROOT/sdk/python"
    run "$bin/ruff" check --no-cache .
    run "$bin/ruff" format --no-cache --check .
    run "$bin/mypy" --cache-dir "$WORK/mypy"
    ((${#secure[@]} == 0)) || export "${secure[@]}"
    run env QUORATE_URL="$urls" "$bin/pytest" -q -o cache_dir="$WORK/pytest"
    # The extra is optional: without it requests are spread over the nodes.
    run env QUORATE_URL="$urls" "$bin/python" "$ROOT/sdk/python/tests/without_routing.py"
}

check_typescript() {
    has node || die "node is not installed"
    node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || die "node must be 20 or later"
    has npm || die "npm is not installed"
    cd "$ROOT/sdk/typescript"
    npm install --silent --no-audit --no-fund --no-package-lock
    run npx --no-install prettier --check src test
    rm -rf dist
    run npx --no-install tsc -p tsconfig.json
    ((${#secure[@]} == 0)) || export "${secure[@]}"
    run env QUORATE_URL="$urls" node --test --test-reporter=dot dist/test/*.test.js
}

mkdir -p "$WORK"
if [[ -z $urls ]]; then
    start_cluster
    start_secure
fi
for language in "${languages[@]}"; do
    ("check_$language")
done
say "The clients pass: ${languages[*]}."
