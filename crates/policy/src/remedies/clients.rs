//! Clients that are kept out, whatever they ask: bans, DNS lists, standing rules, and DNS that does not answer.

use postern_config::paste::Block;

use super::Asked;
use super::lines::{added, list_of};
use super::relaying::{host, trust};

pub(super) fn end_ban(network: &str) -> String {
    format!("end the ban: `posternctl ban remove {network}`")
}

pub(super) fn remove_rule(rule: &str) -> String {
    format!("remove the standing rule: `posternctl rule remove {rule}` (see `posternctl rule list`)")
}

pub(super) fn wait_for_dns(domain: &str) -> String {
    format!("wait until the name servers of {domain} answer, or see why the resolver cannot ask them")
}

/// The client's own way out first: it helps everywhere.
pub(super) fn blocklisted(client: &str, lists: &str, asked: &Asked<'_>) -> Vec<String> {
    let exempt = [("dnsbl_exempt", list_of(&host(client)))];
    vec![
        format!("whoever runs {client} has it removed from {lists}, once what it was listed for has ended"),
        added(
            "or spare the client (policy.dnsbl_exempt)",
            &asked.site.places,
            Block::BlocklistExempt,
            &exempt,
        ),
        format!(
            "or weigh the list less: its weight, its answers or action = \"log\" in [[policy.dnsbl]], or \
             policy.dnsbl_threshold, in {}, then posternctl reload",
            asked.site.main()
        ),
        format!("or, if the client is yours, {}", trust(asked)),
    ]
}
