//! The promises of the store, kept on real files, on failing ones, and on ones that lose power.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backup;
mod check;
mod clock;
mod collect;
mod compact;
mod damage;
mod disk;
mod faults;
mod fix;
mod flips;
mod image;
mod index;
mod kill;
mod large;
mod model;
mod power;
mod quarantine;
mod rebuild;
mod restart;
mod segments;
mod support;
