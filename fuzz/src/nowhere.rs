//! The surroundings of a queue that delivers nothing.

use std::sync::Arc;

use postern_config::{Outbound, Queue as Schedule};
use postern_queue::{Destination, Surroundings};
use postern_smtp::{Address, Domain, ReversePath};

/// Nothing is here, and every domain is a destination of its own.
#[derive(Debug)]
pub struct Nowhere;

impl Surroundings for Nowhere {
    fn destination(&self, _: &ReversePath, recipient: &Address, _: Option<&str>) -> Destination {
        Destination(recipient.host.to_string().into())
    }

    fn checked_route(&self, via: &str) -> Result<String, String> {
        (via == "mx").then(|| via.to_owned()).ok_or_else(|| "no route".to_owned())
    }

    fn is_local(&self, _: &Address) -> bool {
        false
    }

    fn final_recipients(&self, address: &Address) -> Vec<Address> {
        vec![address.clone()]
    }

    fn hostname(&self) -> Domain {
        Domain::parse("mail.proseware.test").expect("a name")
    }

    fn schedule(&self) -> Arc<Schedule> {
        Arc::default()
    }

    fn sending(&self) -> Arc<Outbound> {
        Arc::default()
    }
}
