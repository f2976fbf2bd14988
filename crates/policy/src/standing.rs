//! What decisions look at beside the configuration: it changes while a configuration is in force, and outlives it.

/// Facts that come and go. One for the whole life of the daemon; every generation of the rules looks at the same one.
#[derive(Debug, Default)]
pub struct Standing {}
