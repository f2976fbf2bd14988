//! Recipients that do not exist, lead nowhere, or are too many.

use postern_config::paste::List;
use postern_config::relay::Recipients;
use postern_config::units::format_duration;
use postern_smtp::Domain;

use super::{Asked, Site};

/// By the rule that refused: of a relay domain, or of a domain of ours.
pub(super) fn unknown(asked: &Asked<'_>) -> Vec<String> {
    let (site, (local, domain)) = (asked.site, asked.recipient_parts());
    let name = Domain::parse(domain).ok();
    let is_it = |known: &Domain| name.as_ref() == Some(known);
    let file = |list, at: Option<usize>| {
        at.map_or(site.places.main(), |at| site.places.file_of(list, at)).display().to_string()
    };
    let relay = site.relay_domains.iter().position(|(known, _)| is_it(known));
    match relay.map(|at| &site.relay_domains[at].1) {
        Some(Recipients::CallForward) => vec![
            format!(
                "make the mailbox {local:?} at the primary server of {domain}, which says that there is none"
            ),
            format!(
                "what it says is remembered for {} (relay.call_forward.negative_ttl): until then it is not asked again",
                format_duration(site.negative_ttl)
            ),
        ],
        Some(_) => vec![format!(
            "add {local:?} to the recipients of [[relay.relay_domains]] {domain:?} in {}, then posternctl reload",
            file(List::RelayDomains, relay)
        )],
        None if site.hostname.as_ref().is_some_and(is_it) && !site.domains.iter().any(is_it) => {
            vec![format!(
                "{domain} is the name of this server and no [[domain]]: the client writes to a mailbox of one, or there is one more \
             [[domain]] with this name and {local:?} among its mailboxes"
            )]
        }
        None => vec![format!(
            "add {local:?} to the mailboxes or aliases of [[domain]] {domain:?} in {}, or set its catch_all, then posternctl \
             reload",
            file(List::Domains, site.domains.iter().position(is_it))
        )],
    }
}

pub(super) fn alias_loop(asked: &Asked<'_>) -> String {
    let (local, domain) = asked.recipient_parts();
    format!(
        "change the aliases of [[domain]] {domain:?} in {} so that {local:?} does not lead back to itself, then posternctl \
         reload",
        asked.site.main()
    )
}

pub(super) fn rejecting_route(site: &Site) -> String {
    format!(
        "remove the [[route]] with via = \"reject\" that matches from {}, or put a route before it that matches first, then \
         posternctl reload",
        site.main()
    )
}

pub(super) fn too_many(site: &Site) -> Vec<String> {
    vec![
        "the client sends to the rest in another transaction, as 452 tells it (RFC 5321 §4.5.3.1.10)"
            .to_owned(),
        format!("or raise smtp.max_recipients in {}, then posternctl reload", site.main()),
    ]
}
