//! The DNS of the domains that mail is sent from: which records they need, whether they have them, and who looks when.
//!
//! | question | module |
//! |---|---|
//! | which records are to be published? | [`records`] |
//! | what is the public half of a DKIM key? | [`keys`] |
//! | what does DNS have? | [`check`], of its MX `mx` |
//! | who looks, when, and where is the answer kept? | [`keeper`], the file in `file` |
//!
//! What follows from an answer is decided in `postern_policy::verification`.

pub mod check;
mod file;
pub mod keeper;
pub mod keys;
mod mx;
pub mod records;

pub use check::look_up;
pub use keeper::Keeper;
