//! The subcommands of the binary, other than `serve`.

pub mod form;
pub mod operator;
