#!/usr/bin/env bash
# The console in a real browser, against a local cluster.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
export DEV_CLUSTER_DIR=${DEV_CLUSTER_DIR:-${here%/*}/target/console-cluster}
export DEV_CLIENT_PORT_BASE=${DEV_CLIENT_PORT_BASE:-8600}
export DEV_PEER_PORT_BASE=${DEV_PEER_PORT_BASE:-8700}
# shellcheck source=scripts/lib.sh
source "$here/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/test-console.sh [--pictures] [--keep] [NAME…]

Starts five nodes on ports 8601… and 8701…, and one that checks tokens on 8650 and 8750, runs tests/console/
in headless Chromium, and takes the clusters away again. Fetches two packages with npm into target/console.
NAMEs are of test files: pages, jobs, resolve, hostile, live, keyboard, layout, login, types, expiry, feed, index, logic;
without one, all run.

  --pictures   keep pictures of the pages in docs/screenshots
  --keep       leave the cluster running

Needs node 20 or later, npm, and Chromium (CONSOLE_BROWSER names another program for it).

Example:
  scripts/test-console.sh pages
HELP
}

pictures=0 keep=0 names=()
for word in "$@"; do
    case $word in
        -h | --help)
            usage
            exit 0
            ;;
        --pictures) pictures=1 ;;
        --keep) keep=1 ;;
        -*) die "unknown option '$word' (see --help)" ;;
        *) names+=("$word") ;;
    esac
done

# The browser to use; fails if there is none.
browser() {
    local name
    for name in "${CONSOLE_BROWSER:-chromium}" chromium-browser google-chrome; do
        command -v "$name" && return 0
    done
    die "Chromium is not installed. On Debian or Ubuntu, as root: apt-get install -y chromium"
}

# Fetches what the tests import, unless it is there; the repository gets no files from it.
prepare() {
    local work=$1
    mkdir -p "$work"
    cp "$ROOT"/tests/console/* "$work"
    if [[ ! -d $work/node_modules ]]; then
        say "Fetching the test packages."
        npm install --prefix "$work" --no-package-lock --no-audit --no-fund --loglevel error
    fi
}

clean_up() {
    local status=$?
    ((keep)) || "$SCRIPTS/cluster.sh" wipe >/dev/null || true
    exit "$status"
}

for program in node npm; do
    has "$program" || die "$program is not installed. On Debian or Ubuntu: apt-get install -y nodejs npm"
done
work=$TARGET/console
files=()
((${#names[@]})) || names=(logic pages jobs resolve hostile keyboard layout login types expiry feed index live)
for name in "${names[@]}"; do
    [[ -f $ROOT/tests/console/$name.test.mjs ]] || die "there is no test '$name' (see --help)"
    files+=("$name.test.mjs")
done
CONSOLE_BROWSER=$(browser)
prepare "$work"
trap clean_up EXIT
"$SCRIPTS/cluster.sh" wipe >/dev/null 2>&1 || true
"$SCRIPTS/cluster.sh" up 5
CONSOLE_URLS=$(client_urls)
export CONSOLE_NODE=$NODE_BIN CONSOLE_LOGIN_PORT=$((DEV_CLIENT_PORT_BASE + 50))
export CONSOLE_BROWSER CONSOLE_URLS CONSOLE_SCRIPTS=$SCRIPTS CONSOLE_SOURCE=$ROOT/src/console CONSOLE_SHOTS=''
((pictures)) && CONSOLE_SHOTS=$ROOT/docs/screenshots
# One file after the other: some kill nodes.
cd "$work"
node --test --test-concurrency=1 "${files[@]}"
