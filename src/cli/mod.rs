//! What the binary does beside running a node.

pub mod form;
pub mod operator;
