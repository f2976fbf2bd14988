//! The rules of `[relay]`, compiled.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use postern_config::relay::{Grant, Rate, Recipients, Relay, Scope, TrustedNetwork};
use postern_config::{Config, Route};
use postern_smtp::{Domain, LocalPart};

use super::blocklists::Lists;
use crate::networks::Networks;

/// Trusted networks, relay domains and refusing routes, compiled.
#[derive(Debug)]
pub struct Rules {
    pub(super) trusted: Networks<TrustedNetwork>,
    /// With who exists there.
    pub(super) relay_domains: HashMap<Domain, WhoExists>,
    pub(super) grants: Networks<GrantRule>,
    grant_labels: HashSet<String>,
    /// Whether temporary grants count.
    pub(super) temporary: bool,
    /// Names whose addresses may relay.
    pub(super) hosts: Vec<Domain>,
    /// Labels of certificates, by fingerprint (hexadecimal, lower case) and by name (lower case).
    pub(super) certificates: HashMap<String, String>,
    /// All of them: a route refuses only where no earlier one matches.
    pub(super) routes: Vec<Route>,
    pub(super) blocklists: Lists,
}

impl Rules {
    /// Compiles the rules.
    pub fn new(config: &Config) -> Self {
        // As an address is read: without its quotes.
        let fold = |name: &String| LocalPart::parse(name).ok().map(|local| local.as_str().to_lowercase());
        let who_exists = |recipients: &Recipients| match recipients {
            Recipients::Any => WhoExists::Anybody,
            Recipients::Listed(names) => WhoExists::Listed(names.iter().filter_map(fold).collect()),
            Recipients::CallForward => WhoExists::Asked,
        };
        let relay_domains = config
            .relay
            .relay_domains
            .iter()
            .map(|domain| (domain.name.clone(), who_exists(&domain.recipients)));
        Self {
            trusted: networks(&config.relay.trusted_networks),
            relay_domains: relay_domains.collect(),
            grants: config.relay.grants.iter().map(GrantRule::new).map(|rule| (rule.network, rule)).collect(),
            grant_labels: config.relay.grants.iter().map(|grant| grant.label.clone()).collect(),
            temporary: config.relay.temporary.enabled,
            hosts: config.relay.hosts.iter().map(|host| host.name.clone()).collect(),
            certificates: certificates(&config.relay),
            routes: config.routes.clone(),
            blocklists: Lists::new(config),
        }
    }

    /// The trusted network that the client is in, the smallest if there are several. An IPv4 client on an IPv6 socket counts as IPv4.
    pub fn trusted_network(&self, client: IpAddr) -> Option<&TrustedNetwork> {
        self.trusted.matching(client).next()
    }

    /// The rate of a grant.
    pub fn rate(&self, client: IpAddr, label: &str) -> Option<Rate> {
        self.grants.matching(client).find(|grant| grant.label == label).map(|grant| grant.rate)
    }

    /// Whether a grant has this label.
    pub fn has_grant(&self, label: &str) -> bool {
        self.grant_labels.contains(label)
    }

    /// Host names that may relay: somebody must look up where they are.
    pub fn hosts(&self) -> &[Domain] {
        &self.hosts
    }

    /// Lists in DNS that strangers are looked up in.
    pub fn blocklists(&self) -> &Lists {
        &self.blocklists
    }

    /// Whether we take mail for the domain and pass it on.
    pub fn is_relay_domain(&self, domain: &Domain) -> bool {
        self.relay_domains.contains_key(domain)
    }
}

/// Who exists in a relay domain.
#[derive(Debug)]
pub(super) enum WhoExists {
    /// Not known: everybody is taken.
    Anybody,
    /// These folded local parts.
    Listed(HashSet<String>),
    /// The server of the domain is asked.
    Asked,
}

fn networks(list: &[TrustedNetwork]) -> Networks<TrustedNetwork> {
    list.iter().map(|trusted| (trusted.network, trusted.clone())).collect()
}

/// `[[relay.grants]]`, compiled.
#[derive(Debug)]
pub(super) struct GrantRule {
    pub label: String,
    pub network: IpNet,
    pub senders: Vec<Scope>,
    pub recipients: Vec<Scope>,
    pub rate: Rate,
}

impl GrantRule {
    /// What cannot be read was refused when the configuration was loaded; here it covers nothing.
    fn new(grant: &Grant) -> Self {
        let scopes = |texts: &[String]| texts.iter().filter_map(|text| Scope::parse(text).ok()).collect();
        Self {
            label: grant.label.clone(),
            network: grant.network,
            senders: scopes(&grant.senders),
            recipients: scopes(&grant.recipients),
            rate: grant.rate,
        }
    }
}

fn certificates(relay: &Relay) -> HashMap<String, String> {
    let entries = relay
        .certificates
        .iter()
        .filter_map(|certificate| Some((certificate.key()?, certificate.label.clone())));
    entries.collect()
}
