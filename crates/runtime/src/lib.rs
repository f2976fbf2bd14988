//! The outside world as small traits: time, DNS, connections. Whoever computes is given values; whoever waits asks here.
//!
//! | module | what |
//! |---|---|
//! | [`clock`] | the time, and waiting for it |
//! | [`dns`] | MX, address and PTR records; the only place that names hickory |
//! | [`dial`] | TCP and UNIX connections with a deadline |
//! | [`state_file`] | small files of state that outlives a restart |
//! | [`unix_socket`] | UNIX sockets to listen on |
//! | [`name_server`] | a name server of a few fixed records, for the demonstration |

pub mod clock;
pub mod dial;
pub mod dns;
pub mod name_server;
pub mod state_file;
pub mod unix_socket;

pub use clock::{Clock, ManualClock, SystemClock};
pub use dns::{Answer, Dns};
pub use state_file::StateFile;
