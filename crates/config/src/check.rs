//! Checks that more than one table needs, and the order of all of them.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs;
use std::hash::Hash;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::source::{Findings, Node};
use crate::surroundings::{Surroundings, user_exists};
use crate::{Config, aliases, auth, senders};

/// Looks for everything that would not run or would run against its reader's expectation. Paths are resolved already.
pub(crate) fn check(
    config: &Config,
    node: &Node<'_>,
    surroundings: &Surroundings,
    findings: &mut Findings<'_>,
) {
    host(config, node, findings);
    for (node, listener) in node.each("listener", &config.listeners) {
        listener.check(config.tls.is_some(), &node, findings);
    }
    let listeners: Vec<_> =
        config.listeners.iter().map(|l| l.address.is_fixed().then(|| l.address.clone())).collect();
    no_duplicates(&node.key("listener"), "address", "listener", &listeners, findings);
    config.smtp.check(&node.key("smtp"), findings);
    if let Some(tls) = &config.tls {
        tls.check(&node.key("tls"), findings);
    }
    let has_ca = config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    config.relay.check(has_ca, &node.key("relay"), surroundings, findings);
    for (node, domain) in node.each("domain", &config.domains) {
        domain.check(&node, findings);
    }
    domains_are_told_apart(config, node, findings);
    aliases::check(config, node, findings);
    senders::check_grants(config, node, findings);
    config.policy.check(&node.key("policy"), findings);
    config.report.check(config.tls.is_some(), &node.key("report"), findings);
    config.reputation.check(&node.key("reputation"), findings);
    config.replies.check(&config.report, &node.key("replies"), findings);
    config.queue.check(&node.key("queue"), findings);
    for (at, (node, route)) in node.each("route", &config.routes).enumerate() {
        route.check(&node, findings);
        route.check_reached(&config.routes[..at], &config.domains, &node, findings);
    }
    config.outbound.check(&node.key("outbound"), findings);
    stall_limit(config, &node.key("queue"), findings);
    longest_stay(config, &node.key("queue"), findings);
    config.resolver.check(&node.key("resolver"), findings);
    config.log.check(&node.key("log"), findings);
    auth::check(&config.auth, &node.key("auth"), findings);
}

fn host(config: &Config, node: &Node<'_>, findings: &mut Findings<'_>) {
    if !config.hostname.as_str().contains('.') {
        let message = format!("the host name {} has no dot", config.hostname);
        let help = "other servers expect the full name of this host, such as \"mail.proseware.test\"";
        findings.warning(&node.key("hostname"), message, help);
    }
    if let Some(user) = config.user.as_deref().filter(|user| !user_exists(user)) {
        let help = "create it, or leave the key out to use the user postern";
        findings.error(&node.key("user"), format!("there is no user {user:?}"), help);
    }
}

/// A time-out of the other side must end a step before it looks like a fault of ours.
fn stall_limit(config: &Config, queue: &Node<'_>, findings: &mut Findings<'_>) {
    let longest = config.outbound.timeouts.longest();
    if config.queue.stall_limit <= longest {
        let message = format!(
            "`stall_limit` is not above the longest of `outbound.timeouts`, {} s: a slow server looks like a fault of ours",
            longest.as_secs_f64()
        );
        findings.warning(&queue.key("stall_limit"), message, "after three of those a message is held");
    }
}

/// The queue counts the times of a message from its acceptance in 32 bits of milliseconds, which end after 49.7 days.
const LONGEST_STAY: Duration = Duration::from_secs(49 * 86_400);

/// No message may be in the queue for longer than its times can be counted: for its hold, and its lifetime behind that.
fn longest_stay(config: &Config, queue: &Node<'_>, findings: &mut Findings<'_>) {
    let hold = config.smtp.max_hold;
    let (days, held) = (LONGEST_STAY.as_secs() / 86_400, hold.as_secs().div_ceil(86_400));
    let lifetimes = [("lifetime", config.queue.lifetime), ("bounce_lifetime", config.queue.bounce_lifetime)];
    for (key, lifetime) in lifetimes {
        if lifetime.checked_add(hold).is_none_or(|stay| stay > LONGEST_STAY) {
            let message = format!(
                "`{key}` and the {held} days of `smtp.max_hold` are more than {days} days, and no message can wait longer"
            );
            let help = format!(
                "set \"{}d\" or less, or a shorter `smtp.max_hold`; RFC 5321 §4.5.4.1 asks for 4 to 5 days",
                days.saturating_sub(held)
            );
            findings.error(&queue.key(key), message, help);
        }
    }
}

fn domains_are_told_apart(config: &Config, node: &Node<'_>, findings: &mut Findings<'_>) {
    let local: Vec<_> = config.domains.iter().map(|domain| Some(&domain.name)).collect();
    no_duplicates(&node.key("domain"), "name", "domain", &local, findings);
    let relay: Vec<_> = config.relay.relay_domains.iter().map(|domain| Some(&domain.name)).collect();
    no_duplicates(&node.key("relay").key("relay_domains"), "name", "relay domain", &relay, findings);
    for (at, domain) in node.key("relay").each("relay_domains", &config.relay.relay_domains) {
        let at = at.key("name");
        if let Some((local, _)) =
            node.each("domain", &config.domains).find(|(_, local)| local.name == domain.name)
        {
            let message = format!("{} is a local domain and a relay domain", domain.name);
            let help =
                format!("it is a `[[domain]]` at {}; keep one of them", findings.place(&local.key("name")));
            findings.error(&at, message, help);
        } else if domain.name == config.hostname {
            let help = "mail to the host itself is always local";
            findings.error(&at, format!("{} is the host name, not a relay domain", domain.name), help);
        }
    }
}

/// Two entries of a list must not have the same key; `None` is unlike anything.
pub(crate) fn no_duplicates<T: Eq + Hash + Display>(
    list: &Node<'_>,
    key: &str,
    noun: &str,
    values: &[Option<T>],
    findings: &mut Findings<'_>,
) {
    let mut seen: HashMap<&T, usize> = HashMap::new();
    for (at, value) in values.iter().enumerate() {
        let Some(value) = value else { continue };
        if let Some(first) = seen.insert(value, at) {
            let first = findings.place(&list.item(first).key(key));
            let help = format!("the first is at {first}; remove one of them");
            findings.error(&list.item(at).key(key), format!("{noun} {value} is there twice"), help);
        }
    }
}

pub(crate) fn at_least_one(table: &Node<'_>, key: &str, value: u64, findings: &mut Findings<'_>) {
    if value == 0 {
        findings.error(
            &table.key(key),
            format!("`{key}` is 0, so nothing would be let through"),
            "set 1 or more",
        );
    }
}

pub(crate) fn not_zero(table: &Node<'_>, key: &str, value: Duration, findings: &mut Findings<'_>) {
    if value.is_zero() {
        findings.error(&table.key(key), format!("`{key}` is 0"), "set a time such as \"30s\"");
    }
}

/// A file that must be there and readable.
pub(crate) fn readable(
    node: &Node<'_>,
    what: &str,
    path: &Path,
    findings: &mut Findings<'_>,
) -> Option<String> {
    match fs::read(path) {
        Ok(content) => Some(String::from_utf8_lossy(&content).into_owned()),
        Err(error) => {
            let message = format!("the {what} {} cannot be read: {error}", path.display());
            findings.error(node, message, "relative paths count from the directory of the main file");
            None
        }
    }
}

/// A readable file with a secret: that others may read it is worth a warning.
pub(crate) fn secret(
    node: &Node<'_>,
    what: &str,
    path: &Path,
    findings: &mut Findings<'_>,
) -> Option<String> {
    /// Read, write or execute for others than owner and group.
    const OTHERS: u32 = 0o007;
    let content = readable(node, what, path, findings)?;
    if fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & OTHERS != 0) {
        let message = format!("the {what} {} is open to every user of this machine", path.display());
        findings.warning(node, message, format!("chmod o= {}", path.display()));
    }
    Some(content)
}

/// A readable private key in PEM.
pub(crate) fn private_key(node: &Node<'_>, what: &str, path: &Path, findings: &mut Findings<'_>) {
    let content = secret(node, what, path, findings);
    if content.is_some_and(|content| !content.contains("PRIVATE KEY-----")) {
        let message = format!("the {what} {} holds no private key in PEM", path.display());
        findings.error(node, message, "it should have a line -----BEGIN PRIVATE KEY-----");
    }
}

/// A template of a path may hold `{domain}` and `{local}` and nothing else in braces.
pub(crate) fn template(node: &Node<'_>, template: &Path, findings: &mut Findings<'_>) {
    let rest = template.to_string_lossy().replace("{domain}", "").replace("{local}", "");
    if rest.contains(['{', '}']) {
        let message = format!("{:?} has a placeholder that does not exist", template.display().to_string());
        findings.error(node, message, "there are {domain} and {local}");
    }
}
