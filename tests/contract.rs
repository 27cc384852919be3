//! The HTTP contract (docs/design.md, "HTTP contract"), row by row, against real processes: what it
//! promises for valid requests, the named error for invalid ones, and that the node survives
//! hostile ones.

#![allow(clippy::unwrap_used, reason = "a test must fail on anything unexpected")]

mod common;

#[path = "contract/auth/mod.rs"]
mod auth;
#[path = "contract/backup_buckets.rs"]
mod backup_buckets;
#[path = "contract/backups.rs"]
mod backups;
#[path = "contract/batches.rs"]
mod batches;
#[path = "contract/bodies.rs"]
mod bodies;
#[path = "contract/buckets.rs"]
mod buckets;
#[path = "contract/cli/mod.rs"]
mod cli;
#[path = "contract/conditions.rs"]
mod conditions;
#[path = "contract/conflicts.rs"]
mod conflicts;
#[path = "contract/console.rs"]
mod console;
#[path = "contract/contexts.rs"]
mod contexts;
#[path = "contract/dev.rs"]
mod dev;
#[path = "contract/expiry.rs"]
mod expiry;
#[path = "contract/explain.rs"]
mod explain;
#[path = "contract/feeds.rs"]
mod feeds;
#[path = "contract/frames.rs"]
mod frames;
#[path = "contract/heads.rs"]
mod heads;
#[path = "contract/hints.rs"]
mod hints;
#[path = "contract/indexes.rs"]
mod indexes;
#[path = "contract/inputs.rs"]
mod inputs;
#[path = "contract/jobs.rs"]
mod jobs;
#[path = "contract/keys.rs"]
mod keys;
#[path = "contract/layout.rs"]
mod layout;
#[path = "contract/metrics.rs"]
mod metrics;
#[path = "contract/openapi.rs"]
mod openapi;
#[path = "contract/otlp.rs"]
mod otlp;
#[path = "contract/quorums.rs"]
mod quorums;
#[path = "contract/reference.rs"]
mod reference;
#[path = "contract/runs.rs"]
mod runs;
#[path = "contract/semantics.rs"]
mod semantics;
#[path = "contract/smuggling.rs"]
mod smuggling;
#[path = "contract/snapshots.rs"]
mod snapshots;
#[path = "contract/starts.rs"]
mod starts;
#[path = "contract/status.rs"]
mod status;
#[path = "contract/types.rs"]
mod types;
#[path = "contract/values.rs"]
mod values;
#[path = "contract/watches.rs"]
mod watches;
