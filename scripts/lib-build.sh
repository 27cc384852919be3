# shellcheck shell=bash
# Compiling what the scripts run, with reports of how far it is. Sourced by lib.sh, never run.

# How often a build that goes on reports how far it is, in seconds.
BUILD_REPORT_S=30

# Builds the node; nothing to do when it is up to date. The first time takes some minutes: RocksDB.
build_node() {
    if [[ -n ${DEV_NODE_BIN:-} ]]; then
        [[ -x $DEV_NODE_BIN ]] || die "DEV_NODE_BIN=$DEV_NODE_BIN is not a program"
        return 0
    fi
    [[ -x $NODE_BIN ]] ||
        say "Building the node. The first time takes 15 to 45 minutes on two cores, most of it for RocksDB."
    cargo_build -p quorate --bin quorate
}

build_bench() {
    cargo_build -p quorate-bench
}

# cargo build with the arguments given: a package (-p NAME) first. Prints every half minute how far it is.
# On a terminal cargo's own progress is shown too.
cargo_build() {
    local messages quiet=(--quiet) watcher status=0
    [[ ! -t 2 ]] || quiet=()
    messages=$(mktemp)
    touch "$messages.started"
    watch_build "$messages" "$2" &
    watcher=$!
    (cd "$ROOT" && cargo build "${quiet[@]}" --release --locked --message-format=json-render-diagnostics \
        "$@" >"$messages") || status=$?
    kill "$watcher" 2>/dev/null || true
    wait "$watcher" 2>/dev/null || true
    rm -f "$messages" "$messages.started"
    return "$status"
}

# Reports on a build of package $2 whose cargo messages go to file $1, for as long as this script runs.
watch_build() {
    local messages=$1 crates='' files='' started=$SECONDS due=$((SECONDS + BUILD_REPORT_S)) began=0 now
    # A script that is interrupted does not end its background jobs.
    while kill -0 $$ 2>/dev/null; do
        sleep 1
        now=$(rocksdb_files_done "$messages")
        ((began || !now)) || began=$SECONDS
        ((SECONDS >= due)) || continue
        due=$((SECONDS + BUILD_REPORT_S))
        # Looked up only for a build that takes long.
        crates=${crates:-$(crates_of "$2")}
        files=${files:-$(rocksdb_files)}
        build_report "$(crates_done "$messages")" "$crates" "$now" "$files" $((SECONDS - started)) \
            $((began ? SECONDS - began : 0)) >&2
    done
    rm -f "$messages" "$messages.started"
}

# One line: $1 of $2 crates are compiled, $3 of $4 files of RocksDB, after $5 seconds, $6 of them for RocksDB.
build_report() {
    local line="building: $1 of $2 crates"
    if (($3)); then
        line+=", $3 of $4 files of RocksDB"
    fi
    line+="; $(in_minutes "$5") so far"
    # The first files say little. Afterwards the node itself takes some minutes.
    if (($3 >= 20 && $3 < $4)); then
        line+=", RocksDB needs about $(in_minutes $(($6 * ($4 - $3) / $3))) more"
    elif (($4 && $3 >= $4)); then
        line+=", RocksDB is done"
    fi
    # Cargo's progress is one line that is drawn over.
    if [[ -t 2 ]]; then printf '\r\033[K%s\n' "$line"; else say "$line"; fi
}

in_minutes() {
    if (($1 < 90)); then echo "$1 s"; else echo "$((($1 + 30) / 60)) min"; fi
}

# How many crates the messages of cargo in file $1 report as compiled, now or before. Scripts do not count.
crates_done() {
    sed -n '/"reason":"compiler-artifact"/{/"kind":\["custom-build"\]/!s/.*"package_id":"\([^"]*\)".*/\1/p}' \
        "$1" | sort -u | wc -l
}

# How many crates package $1 consists of, itself included.
crates_of() {
    local tree=(cargo tree --locked --offline -p "$1" -e 'normal,build' --prefix none --no-dedupe)
    (cd "$ROOT" && "${tree[@]}") 2>/dev/null | awk '{ print $1, $2 }' | sort -u | wc -l
}

# How many files of RocksDB were compiled since file $1 was made.
rocksdb_files_done() {
    find "$TARGET/release/build" -path '*/librocksdb-sys-*/out/*' -name '*.o' -newer "$1.started" \
        2>/dev/null | wc -l
}

# How many files RocksDB has: as many as its build script lists. 0 if that is unknown.
rocksdb_files() {
    local version lists
    version=$(sed -n '/^name = "librocksdb-sys"$/{n;s/^version = "\(.*\)"$/\1/p}' "$ROOT/Cargo.lock")
    lists=("${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"librocksdb-sys-$version"/rocksdb_lib_sources.txt)
    if [[ -r ${lists[0]} ]]; then grep -c . "${lists[0]}"; else echo 0; fi
}
