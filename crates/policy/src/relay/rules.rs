//! The rules of `[relay]`, compiled.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use postern_config::relay::TrustedNetwork;
use postern_config::{Config, Route};
use postern_smtp::{Domain, LocalPart};

use crate::networks::Networks;

/// Trusted networks, relay domains and refusing routes, compiled.
#[derive(Debug)]
pub struct Rules {
    pub(super) trusted: Networks<TrustedNetwork>,
    /// With the folded local parts that exist there, where they are known.
    pub(super) relay_domains: HashMap<Domain, Option<HashSet<String>>>,
    /// All of them: a route refuses only where no earlier one matches.
    pub(super) routes: Vec<Route>,
}

impl Rules {
    /// Compiles the rules.
    pub fn new(config: &Config) -> Self {
        // As an address is read: without its quotes.
        let fold = |name: &String| LocalPart::parse(name).ok().map(|local| local.as_str().to_lowercase());
        let fold_all = |names: &Vec<String>| names.iter().filter_map(fold).collect();
        let relay_domains =
            config.relay.relay_domains.iter().map(|d| (d.name.clone(), d.recipients.as_ref().map(fold_all)));
        Self {
            trusted: networks(&config.relay.trusted_networks),
            relay_domains: relay_domains.collect(),
            routes: config.routes.clone(),
        }
    }

    /// The trusted network that the client is in, the smallest if there are several. An IPv4 client on an IPv6 socket counts as IPv4.
    pub fn trusted_network(&self, client: IpAddr) -> Option<&TrustedNetwork> {
        self.trusted.matching(client).next()
    }

    /// Whether we take mail for the domain and pass it on.
    pub fn is_relay_domain(&self, domain: &Domain) -> bool {
        self.relay_domains.contains_key(domain)
    }
}

fn networks(list: &[TrustedNetwork]) -> Networks<TrustedNetwork> {
    list.iter().map(|trusted| (trusted.network, trusted.clone())).collect()
}
