//! The cluster's promises, tested with real processes: kill -9, SIGSTOP, SIGTERM, partitions, wiped
//! disks and overload, with clients at work throughout. Histories are judged by the simulator's
//! oracle.
//!
//! One cluster runs at a time, since the nodes share few cores. For a longer storm see
//! `scripts/storm.sh --help`.

#![allow(clippy::unwrap_used, reason = "a test must fail on anything unexpected")]

mod away;
mod backup;
mod backups;
mod bit_rot;
mod buckets;
mod bytes;
mod conflicts;
mod converge;
mod crash;
mod crowds;
mod deletes;
mod detection;
mod disks;
mod harness;
mod hints;
mod http;
mod http2;
mod inspect;
mod joining;
mod keys;
mod layout;
mod links;
mod load;
mod members;
mod mixed;
mod overload;
mod ownership;
mod partition;
#[path = "../common/process.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the other tests")]
mod process;
mod record;
mod recordings;
mod recover;
mod replicas;
mod restore;
mod rolling;
mod self_check;
mod sloppy;
mod small_disk;
mod stop;
mod storm;
mod tls;
mod wipe;
