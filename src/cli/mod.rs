//! The subcommands of the binary, other than `serve`.

pub mod ca;
pub mod dev;
pub mod form;
pub mod node_file;
pub mod operator;
pub mod recover;
pub mod restore;
pub mod temporary;
