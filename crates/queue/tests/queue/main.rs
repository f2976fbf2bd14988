//! The queue from outside, over each store there is: whatever [`postern_queue::Spool`] it stands on, it does the same.
//!
//! What is about one store stays with that: damage, full and failing disks, power cuts and the index in `tests/store`; what
//! any store has to do for the queue in `tests/spool.rs`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::duplicate_mod, reason = "the same tests over each store")]

mod disk;
mod faults;
mod memory;
mod world;
