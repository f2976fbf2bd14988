//! Facts that a decision needs and that must be asked for elsewhere first: in DNS, or of another server.
//!
//! A decision does not wait. Whoever asks for one calls [`wanted`] before, has the [`Finder`] find what is missing, and then
//! decides with what is known in [`crate::standing::Standing`]. A fact that could not be found is known as such: nobody
//! asks twice for one decision.

use std::fmt::Debug;
use std::net::IpAddr;
use std::pin::Pin;

use postern_smtp::{Address, Domain};

use crate::relay::{self, Question};
use crate::{Policy, sender};

/// One missing fact.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// Whether the server that we relay to takes mail for the recipient.
    Recipient(Address),
    /// Where a host is that may relay.
    HostName(Domain),
    /// Which logins the owner of a domain allows (the TXT record at `_postern.<domain>`).
    OwnersLock(Domain),
    /// Whether the domain's SPF record covers this server.
    SenderPolicy(Domain),
    /// Whether a list in DNS has a client on it.
    Blocklist {
        /// The zone of the list.
        zone: Domain,
        /// The client; never IPv4 in IPv6 form.
        client: IpAddr,
    },
}

/// Finds facts, and puts them where decisions look.
pub trait Finder: Debug + Send + Sync {
    /// Returns when each is known, or known not to be found. Bounded in time.
    fn find(&self, wanted: Vec<Wanted>) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// What must be found before the question is decided. Mostly nothing.
pub fn wanted(question: &Question<'_>, policy: &Policy) -> Vec<Wanted> {
    let mut wanted = sender::wanted(question, policy);
    wanted.extend(relay::wanted(question, policy));
    wanted
}

/// Knows nobody to ask: for tests, and where no decision needs more than the configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct NobodyToAsk;

impl Finder for NobodyToAsk {
    fn find(&self, _wanted: Vec<Wanted>) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}
