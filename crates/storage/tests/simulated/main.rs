//! A store on a simulated disk: what a killed process, a power cut and every other fault leave.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod contents;
mod crashes;
mod faults;
mod lab;
#[path = "../common/world.rs"]
mod world;
