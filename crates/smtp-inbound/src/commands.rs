//! What the commands do, one file each. They look at facts and answer; the order is kept by [`crate::session`].

pub(crate) mod auth;
pub(crate) mod bdat;
pub(crate) mod data;
pub(crate) mod ehlo;
pub(crate) mod etrn;
pub(crate) mod mail;
pub(crate) mod parameters;
pub(crate) mod qualified;
pub(crate) mod rcpt;
