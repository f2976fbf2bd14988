//! What [`super`] stands on: a server without sockets, a session of it, and questions.

pub mod live;
pub mod questions;
pub mod server;
