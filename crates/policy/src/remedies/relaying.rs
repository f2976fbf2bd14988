//! The ways to be allowed to relay.

use std::net::IpAddr;

use postern_config::paste::Block;
use postern_config::relay::{Scope, refused_for_a_while};
use postern_smtp::Domain;

use super::lines::{added, list_of, quoted};
use super::{Asked, Site, without_brackets};

/// All of them, the narrowest first.
pub(super) fn relaying(asked: &Asked<'_>) -> Vec<String> {
    let mut ways = without_login(asked);
    ways.insert(0, log_in(asked.site));
    ways.extend(as_backup(asked));
    ways
}

/// Those of a client that cannot log in, on a submission port as elsewhere.
pub(super) fn without_login(asked: &Asked<'_>) -> Vec<String> {
    let mut ways: Vec<String> = for_a_while(asked).into_iter().collect();
    ways.extend(grant("grant it to the client", asked));
    ways.extend([by_certificate(asked), by_host_name(asked.site), trust(asked)]);
    ways
}

/// A login, where listeners take any.
pub(super) fn log_in(site: &Site) -> String {
    match site.ports.words() {
        Some(ports) => format!("log in on port {ports}; `posternctl account add NAME` makes a login"),
        None => "nobody can log in: no listener takes logins. With [tls] configured there are ports 587 and 465, unless \
                 [[listener]] names others; `posternctl doctor settings` says what is missing"
            .to_owned(),
    }
}

/// `None`: a client that gets no such grant, such as the server itself.
fn for_a_while(asked: &Asked<'_>) -> Option<String> {
    let client: IpAddr = asked.client.parse().ok()?;
    let (around, public) = (&asked.site.surroundings, &asked.site.public_addresses);
    if refused_for_a_while(client.to_canonical().into(), around, public).is_some() {
        return None;
    }
    let command = format!("`posternctl relay grant {} --ttl 30m --reason \"...\"`", asked.client);
    let what = format!("let the client in for a while: {command}");
    if asked.site.has_temporary_grants {
        return Some(what);
    }
    Some(format!("{what}; {}", asked.site.switch_on_temporary_grants()))
}

/// One more grant for just this client, sender and recipient. `None`: one of them cannot be written as a scope.
fn grant(what: &str, asked: &Asked<'_>) -> Option<String> {
    let sender = match without_brackets(asked.sender) {
        "" => "<>",
        sender => sender,
    };
    // Refused before a recipient was named: it has to send to somebody.
    let recipient = asked.recipient.map_or("*", without_brackets);
    if Scope::parse(sender).is_err() || Scope::parse(recipient).is_err() {
        return None;
    }
    let keys = [
        ("label", quoted(&asked.site.free_label(&format!("for {}", asked.client)))),
        ("network", quoted(&host(asked.client))),
        ("senders", list_of(sender)),
        ("recipients", list_of(recipient)),
        ("rate", quoted("100/h")),
    ];
    Some(added(what, &asked.site.places, Block::Grant, &keys))
}

pub(super) fn widen_grant(label: &str, what: &str, asked: &Asked<'_>) -> Vec<String> {
    let widen = format!(
        "widen the grant {label:?} in {} so that it covers the {what}, then posternctl reload",
        asked.site.grant_file(label)
    );
    let other = grant("or give the client one more grant", asked);
    [Some(widen), other, Some(log_in(asked.site))].into_iter().flatten().collect()
}

/// `who` as the reason says it: `the grant printer`.
pub(super) fn raise_rate(who: &str, site: &Site) -> String {
    let file = site.grant_file(who.strip_prefix("the grant ").unwrap_or(who));
    format!(
        "wait, or raise the rate of {who} in relay.grants of {file}: rate = \"200/h\", then posternctl reload"
    )
}

pub(super) fn host_name_unknown(name: &str, site: &Site) -> Vec<String> {
    vec![
        format!("have the name servers of {name} answer: `posternctl relay list` says what is known of it"),
        format!("or remove {name} from relay.hosts in {}, then posternctl reload", site.main()),
    ]
}

/// The fingerprint is known where the client showed a certificate. Zeros are nobody's: they harm nothing until they are replaced.
fn by_certificate(asked: &Asked<'_>) -> String {
    let (sha256, note) = match asked.certificate {
        Some(sha256) => (sha256.to_owned(), ""),
        None => {
            let note = ", with what `openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE` prints behind the \"=\" instead of the zeros";
            ("0".repeat(64), note)
        }
    };
    let keys = [("sha256", quoted(&sha256)), ("label", quoted(&format!("shown by {}", asked.client)))];
    let what = format!("let the client in by its certificate{note}");
    added(&what, &asked.site.places, Block::Certificate, &keys)
}

/// The name under `.invalid` is nobody's (RFC 6761 §6.4).
fn by_host_name(site: &Site) -> String {
    let keys = [("name", quoted("client.invalid")), ("label", quoted("a host with a changing address"))];
    let what = "let the client in by its host name, with the name that leads to its address instead of \
                client.invalid";
    added(what, &site.places, Block::Host, &keys)
}

pub(super) fn trust(asked: &Asked<'_>) -> String {
    let keys =
        [("network", quoted(&host(asked.client))), ("label", quoted(&format!("trusted: {}", asked.client)))];
    added("trust the client", &asked.site.places, Block::TrustedNetwork, &keys)
}

/// Not for an address literal, which has no domain.
fn as_backup(asked: &Asked<'_>) -> Option<String> {
    let (_, domain) = without_brackets(asked.recipient?).rsplit_once('@')?;
    let domain = Domain::parse(domain).ok()?;
    let keys = [("name", quoted(domain.as_str())), ("recipients", quoted("call-forward"))];
    let what = "only where this server is a backup of the domain, as everybody may send there then";
    Some(added(what, &asked.site.places, Block::RelayDomain, &keys))
}

/// One address as a network.
pub(super) fn host(client: &str) -> String {
    let bits = if client.contains(':') { 128 } else { 32 };
    format!("{client}/{bits}")
}
