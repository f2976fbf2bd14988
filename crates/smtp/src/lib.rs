//! The words of SMTP, without I/O: whoever reads or writes a byte of the protocol takes the words from here.
//!
//! | module | what | RFC |
//! |---|---|---|
//! | [`address`] | domains, address literals, mailboxes | 5321 §4.1.2, 4.1.3; 6531 §3.3 |
//! | [`path`] | reverse-path and forward-path | 5321 §4.1.1.2, 4.1.1.3 |
//! | [`command`] | command lines of a client | 5321 §4.1.1 |
//! | [`envelope`] | parameters that travel with a message | 5321 §4.1.2; 3461; 6152 |
//! | [`status`] | enhanced status codes | 3463, 5248 |
//! | [`reply`] | replies, written and read | 5321 §4.2 |
//! | [`ehlo`] | what a server says it can do | 5321 §4.1.1.1 |
//! | [`data`] | line ends, dots, the end of a message | 5321 §4.5.2 |
//! | [`chunk`] | a message in chunks | 3030 §2 |
//! | [`binary`] | a message with binary parts, converted into lines | 3030 §3 |
//! | [`mime`] | the types, boundaries and encodings of parts | 2045, 2046, 2231 |
//! | [`header`] | header fields and the addresses in them | 5322 §2.2, 3.4 |
//! | [`attributes`] | clients that other mail systems speak for | Postfix's XCLIENT_README, XFORWARD_README |
//! | [`proxy`] | whose connection a proxy hands on | HAProxy's proxy-protocol.txt |
//! | [`date`] | the date-time of header fields | 5322 §3.3 |
//!
//! Everything is parsed once, at the edge, into a type that can only hold something valid; nobody inside
//! validates again. What a domain or a recipient *means* is decided in `postern-policy`.

pub mod address;
pub mod attributes;
pub mod binary;
pub mod chunk;
pub mod command;
pub mod data;
pub mod date;
pub mod ehlo;
pub mod envelope;
pub mod header;
pub mod mime;
pub mod path;
pub mod proxy;
pub mod reply;
pub mod status;
#[cfg(test)]
mod testing;

pub use address::{Address, AddressError, Domain, Host, LocalPart};
pub use chunk::Chunk;
pub use envelope::{Body, By, EnvelopeId, Hold, Notify, OriginalRecipient, Ret};
pub use path::{ForwardPath, ReversePath};
pub use reply::{Reply, ReplyClass};
pub use status::EnhancedStatus;
