#!/usr/bin/env bash
# Fuzzes what reads bytes from peers, from the disk and from clients' headers.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/fuzz.sh [--seconds N | --runs N] [--keep] [TARGET...]

Feeds what reads bytes from outside with bytes by libFuzzer, guided by coverage. The targets, all by default:
  frames handshakes messages objects records texts   of peers and of the disk, crates/protocol/fuzz
  bodies datagrams heads issuers                     of clients, gossip and issuers of tokens, tests/fuzz; these need
                                                     RocksDB once more, which takes the first build half an hour
The corpus is beside them, one input a line. Every run of the tests repeats it, and bytes that differ a little from it.

  --seconds N  how long, for each target (default 60)
  --runs N     how many inputs, for each target, however long it takes
  --keep       add what reached new code to the corpus
  --help       this text

Needs a nightly compiler and cargo-fuzz:
  rustup toolchain install nightly && cargo install cargo-fuzz
An input that breaks something is left in target/fuzz, and its name printed.
HELP
}

of_protocol=(frames handshakes messages objects records texts)
of_node=(bodies datagrams heads issuers)
seconds=60 runs='' keep=0 targets=()
while (($#)); do
    case $1 in
        --seconds) seconds=${2:?--seconds needs a number}; shift ;;
        --runs) runs=${2:?--runs needs a number}; shift ;;
        --keep) keep=1 ;;
        --help|-h) usage; exit ;;
        *)
            [[ " ${of_protocol[*]} ${of_node[*]} " == *" $1 "* ]] || { usage >&2; die "unknown argument: $1"; }
            targets+=("$1")
            ;;
    esac
    shift
done
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "--seconds needs a whole number from 1, not $seconds"
[[ $runs =~ ^([1-9][0-9]*)?$ ]] || die "--runs needs a whole number from 1, not $runs"
if [[ -n $runs ]]; then bound=-runs=$runs for="$runs inputs"; else bound=-max_total_time=$seconds for="$seconds s"; fi
((${#targets[@]})) || targets=("${of_protocol[@]}" "${of_node[@]}")
cargo fuzz --version >/dev/null 2>&1 || die "cargo-fuzz is not installed: cargo install cargo-fuzz"
rustup toolchain list 2>/dev/null | grep -q '^nightly' ||
    die "a nightly compiler is needed: rustup toolchain install nightly"

out=$TARGET/fuzz
mkdir -p "$out"

# The crate of a target: it has the corpus too.
crate_of() {
    if [[ " ${of_node[*]} " == *" $1 "* ]]; then echo "$ROOT/tests/fuzz"; else echo "$ROOT/crates/protocol/fuzz"; fi
}

build() {
    (cd "$1" && cargo +nightly fuzz build --fuzz-dir . --sanitizer none --target-dir "$out/build")
}

# The corpus has one input a line, in hexadecimal; the fuzzer wants one a file.
unpack() {
    local at=0 line
    while read -r line; do
        printf '%b' "$(sed 's/../\\x&/g' <<<"$line")" >"$2/$((at++))"
    done <"$(crate_of "$1")/corpus/$1.hex"
}

pack() {
    find "$1" -type f -size -401c -print0 | sort -z |
        while IFS= read -r -d '' file; do od -An -v -tx1 "$file" | tr -d ' \n'; echo; done | sort -u
}

for crate in $(for target in "${targets[@]}"; do crate_of "$target"; done | sort -u); do build "$crate"; done
programs=$(dirname -- "$(find "$out/build" -path "*/release/${targets[0]}" -type f | head -n 1)")

for target in "${targets[@]}"; do
    corpus=$(crate_of "$target")/corpus/$target.hex
    known=$(mktemp -d) found=$(mktemp -d)
    unpack "$target" "$known"
    say "$target: $for"
    "$programs/$target" "$found" "$known" "$bound" -max_len=2048 -rss_limit_mb=2048 \
        -artifact_prefix="$out/$target-" -print_final_stats=1 >"$out/$target.log" 2>&1 ||
        die "$target failed; the input and what it broke are named at the end of $out/$target.log"
    grep -h 'stat::number_of_executed_units\|stat::new_units_added' "$out/$target.log" | sed 's/stat::/  /'
    if ((keep)); then
        { cat "$corpus"; pack "$found"; } | sort -u >"$out/corpus"
        mv "$out/corpus" "$corpus"
    fi
    rm -rf "$known" "$found"
done
