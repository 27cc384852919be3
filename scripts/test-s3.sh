#!/usr/bin/env bash
# Backups in an object store: made, verified, damaged, pruned and restored against a server that speaks S3.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'HELP'
Usage: scripts/test-s3.sh

Starts an S3 server (versitygw) over TLS and a cluster of three nodes, and backs it up into a bucket: twice, of which
the second copies little. A wrong secret, a lock that is taken, an object that was truncated, and a store that would be
reached without TLS are noticed. Everything is then wiped, and the first backup is restored as a new cluster. Takes about
a minute, after the server was built.

The node is QUORATE_BIN, or target/release/quorate. The server is built into target/s3/ with go, from the Go module
proxy. Needs go, curl and jq. Ports: 8851 to 8857, or TEST_S3_PORT and the six after it.
HELP
}

case ${1:-} in
    -h | --help)
        usage
        exit 0
        ;;
    '') ;;
    *) die "unknown word '$1' (see --help)" ;;
esac
PORT=${TEST_S3_PORT:-8851}
[[ $PORT =~ ^[1-9][0-9]{3,4}$ && $PORT -le 65000 ]] || die "TEST_S3_PORT is a port, not '$PORT'"
BIN=${QUORATE_BIN:-$NODE_BIN}
[[ -x $BIN ]] || die "there is no node at $BIN. Build it: cargo build --release --locked --bin quorate"
has go || die "go is not installed: the server is built with it"
# The node takes every other QUORATE_* variable for a setting of its own.
unset QUORATE_BIN QUORATE_URL QUORATE_TOKEN
while read -r variable; do unset "$variable"; done < <(compgen -e AWS_ || true)

SERVER=v1.8.0
WORK=$TARGET/s3
DATA=$(mktemp -d)
OBJECTS=$DATA/store/backups/some/prefix
TO=s3://backups/some/prefix
URL=http://127.0.0.1:$((PORT + 1))
export AWS_ACCESS_KEY_ID=operator AWS_SECRET_ACCESS_KEY=correct-horse AWS_REGION=us-east-1
export AWS_ENDPOINT_URL=https://127.0.0.1:$PORT
export SSL_CERT_FILE=$DATA/ca/ca.pem
processes=()

# shellcheck disable=SC2317 # a trap calls it
clean_up() {
    end_processes "${processes[@]}"
    rm -rf "$DATA"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

quorate() { "$BIN" "$@"; }
backup() { quorate backup --url "$URL" --to "$TO" "$@"; }

# Expects that a command fails, and says so in these words.
refused() {
    local words=$1 told
    shift
    if told=$("$@" 2>&1); then die "$* succeeded: $told"; fi
    [[ $told == *"$words"* ]] || die "$* does not say '$words', but: $told"
    say "refused, as it should be: ${told%%$'\n'*}"
}

until_ready() {
    local deadline=$((SECONDS + 60))
    until curl -sf -m 1 -o /dev/null "$1"; do
        ((SECONDS < deadline)) || die "$1 does not answer; see $WORK"
        sleep 0.2
    done
}

# A request to the store, beside the command.
ask_store() {
    curl -sS --fail-with-body -m 10 --cacert "$SSL_CERT_FILE" --aws-sigv4 "aws:amz:$AWS_REGION:s3" \
        -H "x-amz-content-sha256: UNSIGNED-PAYLOAD" \
        --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" "$@"
}

# How many uploads in parts are neither completed nor given up.
unfinished() {
    local listed
    listed=$(ask_store "$AWS_ENDPOINT_URL/backups?uploads=")
    grep -o '<UploadId>' <<<"$listed" | wc -l || true
}

start_store() {
    if [[ ! -x $WORK/$SERVER/versitygw ]]; then
        say "building versitygw $SERVER into $WORK"
        GOBIN=$WORK/$SERVER GOPATH=$WORK/go GOFLAGS=-mod=mod \
            go install "github.com/versity/versitygw/cmd/versitygw@$SERVER" 2>"$WORK/build.log" ||
            die "it does not build; see $WORK/build.log"
    fi
    quorate ca init --dir "$DATA/ca" >/dev/null
    quorate ca issue --dir "$DATA/ca" --node store --host 127.0.0.1 --out "$DATA/tls" >/dev/null
    mkdir "$DATA/store"
    "$WORK/$SERVER/versitygw" --port "127.0.0.1:$PORT" --health /health --quiet \
        --access "$AWS_ACCESS_KEY_ID" --secret "$AWS_SECRET_ACCESS_KEY" \
        --cert "$DATA/tls/store.pem" --key "$DATA/tls/store.key" \
        posix "$DATA/store" >"$WORK/store.log" 2>&1 &
    processes+=($!)
    local deadline=$((SECONDS + 30))
    until curl -sf -m 1 --cacert "$SSL_CERT_FILE" -o /dev/null "$AWS_ENDPOINT_URL/health"; do
        ((SECONDS < deadline)) || die "the store does not answer; see $WORK/store.log"
        sleep 0.1
    done
    ask_store -X PUT "$AWS_ENDPOINT_URL/backups"
}

# Writes the configurations of three nodes of a cluster.
configure() {
    local id=$1 key=$2 at node
    for at in 1 2 3; do
        cat >"$DATA/n$at.toml" <<CONFIG
cluster_id = "$id"
cluster_keys = ["$key"]
node = "n$at"
data_dir = "$DATA/n$at"
client_addr = "127.0.0.1:$((PORT + at))"
peer_addr = "127.0.0.1:$((PORT + 3 + at))"
durability = "buffered"

[storage]
disk_free_bytes_min = 0
block_cache_bytes = 8388608
row_cache_bytes = 4194304
memtable_bytes = 67108864

[layout]
partitions = 64
CONFIG
        for node in 1 2 3; do
            printf '\n[[layout.nodes]]\nname = "n%s"\nzone = "n%s"\npeer_addr = "127.0.0.1:%s"\n' \
                "$node" "$node" $((PORT + 3 + node)) >>"$DATA/n$at.toml"
        done
    done
}

nodes=()
start_nodes() {
    local at
    nodes=()
    for at in 1 2 3; do
        "$BIN" serve --config "$DATA/n$at.toml" >>"$WORK/n$at.log" 2>&1 &
        nodes+=($!)
        processes+=($!)
    done
}
until_all_ready() {
    local at
    for at in 1 2 3; do until_ready "http://127.0.0.1:$((PORT + at))/readyz"; done
}

mkdir -p "$WORK"
rm -f "$WORK"/n?.log
for offset in {0..6}; do require_free_port $((PORT + offset)) "a port of this test"; done
start_store
configure before "$(quorate keygen)"
start_nodes
quorate form --config "$DATA/n1.toml" >/dev/null
until_all_ready

say "--- two backups"
for at in {1..50}; do
    curl -sSf -X PUT --data-binary "before $at" "$URL/kv/kept/k$at"
done
# Tables that are longer than what is stored in one piece: no compression makes this shorter.
head -c 1000000 /dev/urandom >"$DATA/large"
for at in {1..24}; do
    head -c 1000000 /dev/urandom | curl -sSf -X PUT --data-binary @- "$URL/kv/kept/filler$at"
done
curl -sSf -X PUT --data-binary "@$DATA/large" "$URL/kv/kept/large"
backup --name first
curl -sSf -X PUT --data-binary after "$URL/kv/kept/later"
backup --name second --json >"$DATA/second.json"
jq -e '.copied_bytes < .bytes / 10 and .copied_files > 0' "$DATA/second.json" >/dev/null ||
    die "the second backup copied too much: $(cat "$DATA/second.json")"
quorate backup list --to "$TO"
quorate backup verify first --to "$TO"

say "--- what is wrong is noticed"
refused SignatureDoesNotMatch env AWS_SECRET_ACCESS_KEY=wrong "$BIN" backup list --to "$TO"
refused AWS_ALLOW_HTTP env AWS_ENDPOINT_URL="http://127.0.0.1:$PORT" "$BIN" backup list --to "$TO"
refused NoSuchBucket "$BIN" backup list --to s3://no-such-bucket
refused "there is a backup called first already" backup --name first
ask_store -X PUT --data-binary '{"what":"prune","since":"noon","host":"elsewhere","process":7}' \
    "$AWS_ENDPOINT_URL/backups/some/prefix/lock.json"
refused "process 7 on elsewhere" backup --name third
table=$(find "$OBJECTS/files" -type f -size +10M -printf '%f\n' | head -n 1)
[[ -n $table ]] || die "there is no long file in $OBJECTS"
truncate -s -1 "$OBJECTS/files/$table"
refused "its contents are not what was stored" quorate backup verify first --to "$TO"
# It is stored again, as it has another length than it should.
backup --name third --break-lock
quorate backup verify first --to "$TO"
[[ ! -e $OBJECTS/lock.json ]] || die "the lock is still there"

say "--- an interrupted backup leaves nothing half done"
interrupted=0
for at in {1..10}; do
    "$BIN" backup --url "$URL" --to "s3://backups/again$at" >"$WORK/interrupted.log" 2>&1 &
    process=$!
    # Until one of its files is on the way, in parts.
    seen=0
    while ((seen == 0)) && kill -0 "$process" 2>/dev/null; do
        seen=$(unfinished)
    done
    kill -TERM "$process" 2>/dev/null || true
    if ! wait "$process"; then
        grep -q interrupted "$WORK/interrupted.log" || die "it failed: $(cat "$WORK/interrupted.log")"
        interrupted=$seen
        break
    fi
done
((interrupted)) || die "no backup was interrupted while a file was on its way"
[[ $(unfinished) == 0 ]] || die "the parts of an upload were left there"
[[ ! -e $DATA/store/backups/again$at/lock.json ]] || die "the lock was left there"

say "--- all is lost and restored"
kill "${nodes[@]}"
for node in "${nodes[@]}"; do wait "$node" || true; done
rm -rf "$DATA"/n?
configure after "$(quorate keygen)"
for at in 1 2 3; do
    quorate restore --from "$TO" --backup first --config "$DATA/n$at.toml" --new-cluster
done
start_nodes
until_all_ready
for at in {1..50}; do
    [[ $(curl -sf "$URL/kv/kept/k$at") == "before $at" ]] || die "kept/k$at is not there"
done
curl -sf "$URL/kv/kept/large" | cmp - "$DATA/large" || die "kept/large is not what it was"
[[ $(curl -s -o /dev/null -w '%{http_code}' "$URL/kv/kept/later") == 404 ]] || die "kept/later is there"

say "--- retention"
backup --name fourth --keep 1
[[ $(find "$OBJECTS/backups" -mindepth 1 -maxdepth 1 -type d | wc -l) == 1 ]] || die "more than one backup is there"
[[ -e $OBJECTS/files/$table ]] || die "a file that the last backup needs is gone"
quorate backup verify --to "$TO"
say "backups in an object store: made, verified, repaired, restored and pruned"
