//! Commands on the cluster.

pub(crate) mod anti_entropy;
pub(crate) mod bucket;
pub(crate) mod doctor;
pub(crate) mod healthcheck;
pub(crate) mod hints;
pub(crate) mod jobs;
pub(crate) mod layout;
pub(crate) mod look;
pub(crate) mod ring;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod top;
pub(crate) mod wait;

use serde_json::Value;

/// Names of nodes, or dots, in a list, with commas.
pub(crate) fn names(list: &[Value]) -> String {
    let name = |value: &Value| crate::out::safe(value.as_str().unwrap_or("?"));
    list.iter().map(name).collect::<Vec<_>>().join(", ")
}
