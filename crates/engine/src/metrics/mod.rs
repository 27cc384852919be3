//! What a node counts for its metrics.
//!
//! * `desc`: what a metric is: name, labels, help, and what it means for an operator;
//! * `requests`, `auth`, `operations`, `repair`, `layout`: what is counted as it happens, in atomics without
//!   lookups; `totals` puts them together in the node;
//! * `text`: the two formats that Prometheus reads.
//!
//! Every metric is declared once, beside the code that writes it.

pub mod auth;
pub mod counter;
pub mod desc;
pub mod layout;
pub mod operations;
pub mod repair;
pub mod requests;
pub mod text;
pub mod totals;
