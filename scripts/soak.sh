#!/usr/bin/env bash
# A long storm of faults over a cluster of real processes, with clients at work, and the reckoning.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/soak.sh [MINUTES] [SEED]

Runs five nodes for MINUTES (default 10) under kill -9, pauses and cuts of the network drawn from SEED (default
random; it is printed), while clients read and write. At the end every acknowledged write must be there
and nothing else. Uses ports of its own and a temporary directory.

Example:
  scripts/soak.sh 60
HELP
}

case ${1:-} in
    -h | --help)
        usage
        exit 0
        ;;
esac
minutes=${1:-10} seed=${2:-$((RANDOM * 32768 + RANDOM))}
[[ $minutes =~ ^[1-9][0-9]*$ ]] || die "MINUTES is a number from 1 on, not '$minutes' (see --help)"
[[ $seed =~ ^[0-9]+$ ]] || die "SEED is a number, not '$seed' (see --help)"
ensure_prerequisites
cd "$ROOT"
say "A storm of $minutes minutes. To repeat it: scripts/soak.sh $minutes $seed"
STORM_MINUTES=$minutes STORM_SEED=$seed \
    cargo test --release --locked --test cluster -- --nocapture a_storm_of_faults
