//! Whether every alias leads to somebody.
//!
//! The same look-up as at run time (exact name, name without its detail, catch-all), so that a chain which loads also
//! delivers.

use std::collections::{HashMap, HashSet};

use postern_smtp::{Address, AddressError, Domain, LocalPart};

use crate::Config;
use crate::source::{Findings, Node};

/// The names of all domains.
pub(crate) struct Names<'c> {
    config: &'c Config,
    domains: HashMap<&'c Domain, DomainNames<'c>>,
}

struct DomainNames<'c> {
    mailboxes: HashSet<String>,
    aliases: HashMap<String, Alias<'c>>,
    catch_all: Option<Address>,
    delimiter: &'c str,
}

struct Alias<'c> {
    /// As it is written.
    name: &'c str,
    targets: Vec<Result<Address, AddressError>>,
}

/// Something that is replaced by other addresses: an alias, or (`None`) the catch-all of a domain.
type Link<'c> = (&'c Domain, Option<String>);

/// Where an address leads.
enum Next<'c> {
    Elsewhere,
    Mailbox,
    Nobody,
    Link(Link<'c>),
}

pub(crate) fn check(config: &Config, node: &Node<'_>, findings: &mut Findings<'_>) {
    let names = Names::new(config);
    for (node, domain) in node.each("domain", &config.domains) {
        names.check_targets(domain, &node, findings);
    }
    let mut known = HashSet::new();
    for (node, domain) in node.each("domain", &config.domains) {
        let Some((key, compiled)) = names.domains.get_key_value(&domain.name) else { continue };
        let mut aliases: Vec<_> = compiled.aliases.iter().collect();
        aliases.sort_by_key(|(folded, _)| *folded);
        for (folded, alias) in aliases {
            let at = node.key("aliases").key(alias.name);
            names.check_loop((key, Some(folded.clone())), &at, &mut known, findings);
        }
        names.check_loop((key, None), &node.key("catch_all"), &mut known, findings);
    }
}

impl<'c> Names<'c> {
    pub(crate) fn new(config: &'c Config) -> Self {
        let domains = config.domains.iter().map(|domain| (&domain.name, DomainNames::new(domain)));
        Self { config, domains: domains.collect() }
    }

    /// Whether an address is of a `[[domain]]` that has names, and none of them is its. A domain without any name has its
    /// mailboxes elsewhere.
    pub(crate) fn lacks(&self, address: &Address) -> bool {
        let domain = address.domain().and_then(|domain| self.domains.get(domain));
        let has_names = domain.is_some_and(|names| {
            !names.mailboxes.is_empty() || !names.aliases.is_empty() || names.catch_all.is_some()
        });
        has_names && matches!(self.next(address), Next::Nobody)
    }

    fn check_targets(&self, domain: &crate::domain::Domain, node: &Node<'_>, findings: &mut Findings<'_>) {
        for (name, targets) in &domain.aliases {
            for (at, target) in node.key("aliases").each(name, targets) {
                self.check_target(domain, target, &at, findings);
            }
        }
        if let Some(target) = &domain.catch_all {
            self.check_target(domain, target, &node.key("catch_all"), findings);
        }
    }

    fn check_target(
        &self,
        domain: &crate::domain::Domain,
        target: &str,
        node: &Node<'_>,
        findings: &mut Findings<'_>,
    ) {
        match domain.target(target) {
            Err(error) => {
                let help = "write an address, or a local part of this domain";
                findings.error(node, format!("{target:?} is not a target of mail: {error}"), help);
            }
            Ok(address) if matches!(self.next(&address), Next::Nobody) => {
                let help = "add it to `mailboxes` or `aliases` of its domain";
                findings.error(
                    node,
                    format!("{address} is in a domain of ours, but nobody has that name"),
                    help,
                );
            }
            Ok(_) => {}
        }
    }

    fn next(&self, address: &Address) -> Next<'c> {
        let folded = address.local.as_str().to_lowercase();
        let Some(domain) = address.domain() else { return Next::Elsewhere };
        let Some((key, names)) = self.domains.get_key_value(domain) else {
            return match (*domain == self.config.hostname, folded.as_str()) {
                (false, _) => Next::Elsewhere,
                // The first domain's, if it has them, or mailboxes of the host itself.
                (true, "postmaster" | "root") => self.next_of_host(&folded),
                (true, _) => Next::Nobody,
            };
        };
        let base = folded.split_once(names.delimiter).filter(|_| !names.delimiter.is_empty());
        let base = base.map(|(base, _)| base).filter(|base| !base.is_empty());
        for name in [Some(folded.as_str()), base].into_iter().flatten() {
            if names.aliases.contains_key(name) {
                return Next::Link((key, Some(name.to_owned())));
            }
            if names.mailboxes.contains(name) || self.is_implicit(key, name) {
                return Next::Mailbox;
            }
        }
        names.catch_all.as_ref().map_or(Next::Nobody, |_| Next::Link((key, None)))
    }

    fn next_of_host(&self, folded: &str) -> Next<'c> {
        let first = self.config.domains.first().and_then(|first| self.domains.get_key_value(&first.name));
        match first {
            Some((key, names)) if names.aliases.contains_key(folded) => {
                Next::Link((key, Some(folded.to_owned())))
            }
            _ => Next::Mailbox,
        }
    }

    /// Mailboxes that exist without being listed.
    fn is_implicit(&self, domain: &Domain, folded: &str) -> bool {
        folded == "postmaster" || (folded == "root" && *domain == self.config.hostname)
    }

    fn has_mailbox(&self, domain: &Domain, folded: &str) -> bool {
        let listed = self.domains.get(domain).is_some_and(|names| names.mailboxes.contains(folded));
        listed || self.is_implicit(domain, folded)
    }

    fn targets(&self, link: &Link<'c>) -> Vec<&Address> {
        let Some(names) = self.domains.get(link.0) else { return Vec::new() };
        match &link.1 {
            None => names.catch_all.iter().collect(),
            Some(alias) => names
                .aliases
                .get(alias)
                .into_iter()
                .flat_map(|alias| alias.targets.iter().flatten())
                .collect(),
        }
    }

    /// The links that a link leads to. An alias that names itself means the mailbox of that name.
    fn links(&self, link: &Link<'c>) -> Vec<Link<'c>> {
        let links = self.targets(link).into_iter().filter_map(|target| match self.next(target) {
            Next::Link(next) => Some(next),
            Next::Elsewhere | Next::Mailbox | Next::Nobody => None,
        });
        let own_mailbox = |next: &Link<'c>| {
            next == link && next.1.as_ref().is_some_and(|folded| self.has_mailbox(next.0, folded))
        };
        links.filter(|next| !own_mailbox(next)).collect()
    }

    /// Follows all chains from `start`. `known` are links that were followed to the end already. A chain may be as long as
    /// the file, so this keeps a stack of its own.
    fn check_loop(
        &self,
        start: Link<'c>,
        node: &Node<'_>,
        known: &mut HashSet<Link<'c>>,
        findings: &mut Findings<'_>,
    ) {
        if !known.insert(start.clone()) {
            return;
        }
        let mut open = HashSet::from([start.clone()]);
        let mut chain = vec![(start.clone(), self.links(&start))];
        while let Some((link, rest)) = chain.last_mut() {
            let Some(next) = rest.pop() else {
                open.remove(link);
                chain.pop();
                continue;
            };
            if open.contains(&next) {
                let from = chain.iter().position(|(link, _)| *link == next).unwrap_or_default();
                let steps = chain[from..].iter().map(|(link, _)| link).chain([&next]);
                let steps: Vec<String> =
                    steps.map(|(domain, folded)| shown(domain, folded.as_deref())).collect();
                let help = "let one of them name somebody else; an alias may name itself if there is a mailbox of that name";
                findings.error(node, format!("alias loop: {}", steps.join(" -> ")), help);
            } else if known.insert(next.clone()) {
                open.insert(next.clone());
                let links = self.links(&next);
                chain.push((next, links));
            }
        }
    }
}

impl<'c> DomainNames<'c> {
    fn new(domain: &'c crate::domain::Domain) -> Self {
        let fold = |text: &str| LocalPart::parse(text).map(|local| local.as_str().to_lowercase());
        let alias = |(name, targets): (&'c String, &'c Vec<String>)| {
            let targets = targets.iter().map(|target| domain.target(target)).collect();
            Some((fold(name).ok()?, Alias { name, targets }))
        };
        Self {
            mailboxes: domain.mailboxes.iter().filter_map(|name| fold(name).ok()).collect(),
            aliases: domain.aliases.iter().filter_map(alias).collect(),
            catch_all: domain.catch_all.as_deref().and_then(|target| domain.target(target).ok()),
            delimiter: &domain.subaddress_delimiter,
        }
    }
}

fn shown(domain: &Domain, folded: Option<&str>) -> String {
    folded.map_or_else(|| format!("catch-all of {domain}"), |folded| format!("{folded}@{domain}"))
}
