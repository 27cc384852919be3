#!/usr/bin/env bash
# The storm: faults strike a cluster of real processes while clients are at work; then the final check.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/storm.sh [--minutes M | --seconds S] [--seed SEED] [--nodes COUNT] [--no-layouts]
       scripts/storm.sh --grow [--seed SEED]
       scripts/storm.sh --restore [--long] [--minutes M | --seconds S] [--seed SEED] [--nodes COUNT]

Starts COUNT nodes (default 5) on ports of their own in a temporary directory, and clients that keep sets of
unique elements, delete keys, and count what was acknowledged. Meanwhile nodes are killed, paused, stopped,
cut off and wiped, for M minutes (default 10), as SEED says (default random; it is printed). Nodes also join,
leave and are replaced, and changes of the layout are given up, while the faults strike. Then all is
healed, the replicas must become the same by themselves, and the disks are compared with what the clients
know and with each other, byte for byte. Prints how it goes, and a table; fails if anything acknowledged was
lost, invented or brought back, if any replicas differ, or if a change of the layout does not end.

  --no-layouts  the members stay as they are
  --grow        a story instead of a storm: three nodes become five, then seven, a dead one is replaced, and
                a zone is drained, which leaves four; at random moments of each step nodes are killed
  --restore     backups are made meanwhile, over and over; in the end every disk is wiped, and one of the
                backups is restored as a new cluster: what was acknowledged before it must be there, what was
                deleted before it must not, and no dot may be given twice. Default 2 minutes; --long: 20. The
                layout stays

Examples:
  scripts/storm.sh --minutes 30 --seed 7
  scripts/storm.sh --grow
  scripts/storm.sh --restore --seed 7
HELP
}

seconds='' seed=$((RANDOM * 32768 + RANDOM)) nodes=5 layouts=1 grow=0 restore=0 long=0
while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --minutes | --seconds | --seed | --nodes)
            [[ ${2:-} =~ ^[0-9]{1,15}$ ]] || die "$1 needs a number, not '${2:-}' (see --help)"
            number=$((10#$2))
            case $1 in
                --minutes) seconds=$((60 * number)) ;;
                --seconds) seconds=$number ;;
                --seed) seed=$number ;;
                --nodes) nodes=$number ;;
            esac
            shift 2
            ;;
        --no-layouts)
            layouts=0
            shift
            ;;
        --grow)
            grow=1
            shift
            ;;
        --restore)
            restore=1
            shift
            ;;
        --long)
            long=1
            shift
            ;;
        *) die "unknown option '$1' (see --help)" ;;
    esac
done
((!long || restore)) || die "--long is for --restore (see --help)"
if [[ -z $seconds ]]; then
    seconds=600
    if ((restore)); then seconds=$((long ? 1200 : 120)); fi
fi
((seconds >= 1 && seconds <= 86400)) || die "a storm takes from a second to a day (see --help)"
((nodes >= 3 && nodes <= 16)) || die "--nodes is a number from 3 to 16 (see --help)"
ensure_prerequisites
cd "$ROOT"
if ((grow)); then
    say "A cluster that grows and shrinks, seed $seed. Building first."
    test=storm::story::a_cluster_that_grows_to_order
elif ((restore)); then
    say "A storm of $seconds s over $nodes nodes, a loss of all, and a restore, seed $seed. Building first."
    test=storm::restored::a_storm_to_restore_from
else
    say "A storm of $seconds s over $nodes nodes, seed $seed. Building first."
    test=storm::a_storm_to_order
fi
cargo test --quiet --release --locked --test cluster --no-run
STORM_SECONDS=$seconds STORM_SEED=$seed STORM_NODES=$nodes STORM_LAYOUTS=$layouts \
    cargo test --quiet --release --locked --test cluster -- --ignored --nocapture --exact "$test"
