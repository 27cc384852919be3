#!/usr/bin/env bash
# Everything a newcomer should run, and what the project's own checks run.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/test.sh [--long]

Checks formatting, dependencies, lints, docs and scripts, runs all tests, takes the tour of docs/tour.md, runs the
simulator over 2,000 seeds, and lets it find every deliberate bug. Installs what is missing on Debian and Ubuntu when
it may. Changes no file of the repository.

  --long  20,000 seeds; and the API against its description, the Python and TypeScript clients, the console in
          Chromium (python3, node and chromium must be there; packages are fetched from PyPI and npm), backups in an
          S3 server (if go is there, which builds it), and a storm after which a backup is restored

Example:
  scripts/test.sh && echo "ready to commit"
HELP
}

seeds=2000 long=0
for word in "$@"; do
    case $word in
        -h | --help)
            usage
            exit 0
            ;;
        --long) seeds=20000 long=1 ;;
        *) die "unknown option '$word' (see --help)" ;;
    esac
done

ensure_prerequisites
cd "$ROOT"
failed=() steps=0

# Runs one step under a heading, timed; what fails is remembered, and the rest runs all the same.
step() {
    local title=$1 started=$SECONDS verdict=ok
    shift
    printf '\n=== %s\n    %s\n' "$title" "$*"
    steps=$((steps + 1))
    "$@" || {
        verdict=FAILED
        failed+=("$title")
    }
    printf '=== %s: %s in %d s\n' "$title" "$verdict" $((SECONDS - started))
}

check_scripts() {
    local script
    for script in scripts/*.sh .ci/run; do
        bash -n "$script" || return 1
    done
    if has shellcheck; then
        shellcheck -x scripts/*.sh .ci/run
    else
        say "shellcheck is not installed: only the syntax was checked"
    fi
}

check_dependencies() {
    if has cargo-deny; then
        # Without advisories: those need the network, and change without a change here.
        cargo deny -L error --locked check bans licenses sources
    else
        say "cargo-deny is not installed (cargo install --locked cargo-deny): dependencies were not checked"
    fi
}

step "format" cargo fmt --all --check
step "scripts" check_scripts
step "dependencies" check_dependencies
step "lints" cargo clippy --release --locked --workspace --all-targets -- -D warnings
step "docs" env RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps
step "tests" cargo test --release --locked --workspace --no-fail-fast
# The binary that the tests have just used.
step "tour" env DEV_NODE_BIN="$NODE_BIN" scripts/tour-check.sh
if ((long)); then
    # These fetch packages from PyPI and npm, and need Chromium.
    step "api" scripts/check-api.sh
    step "clients" env QUORATE_BIN="$NODE_BIN" scripts/test-sdk.sh
    step "console" scripts/test-console.sh
    if has go; then
        step "object store" env QUORATE_BIN="$NODE_BIN" scripts/test-s3.sh
    else
        say "go is not installed: backups in an object store were not tried"
    fi
    step "restore" scripts/storm.sh --restore
fi
step "simulator" cargo run --release --locked -p quorate-sim -- --seed 1 --seeds "$seeds"
step "mutations" \
    cargo test --release --locked -p quorate-sim --features mutations --test mutations --test histories

printf '\nsteps: %d passed, %d failed\n' $((steps - ${#failed[@]})) ${#failed[@]}
if ((${#failed[@]})); then
    list=$(printf ', %s' "${failed[@]}")
    say "FAILED after $SECONDS s: ${list#, }"
    exit 1
fi
say "All $steps steps passed in $SECONDS s."
