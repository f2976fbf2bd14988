//! Whether somebody reads what comes back to the addresses that grants and logins send as.

use postern_smtp::Address;

use crate::account::SendAs;
use crate::aliases::Names;
use crate::relay::Scope;
use crate::source::{Findings, Node};
use crate::{Account, Config, LoginState};

/// Looks at the senders of `relay.grants`.
pub(crate) fn check_grants(config: &Config, node: &Node<'_>, findings: &mut Findings<'_>) {
    let names = Names::new(config);
    for (node, grant) in node.key("relay").each("grants", &config.relay.grants) {
        for (node, text) in node.each("senders", &grant.senders) {
            if let Ok(Scope::Address(address)) = Scope::parse(text) {
                look(&names, &address, &node, findings);
            }
        }
    }
}

/// Looks at what logins may send as beside their names. One that is disabled sends nothing.
pub(crate) fn check_logins(
    config: &Config,
    accounts: &[Account],
    node: &Node<'_>,
    findings: &mut Findings<'_>,
) {
    let names = Names::new(config);
    for (node, account) in node.each("account", accounts) {
        if account.state == LoginState::Disabled {
            continue;
        }
        for (node, text) in node.each("send_as", &account.send_as) {
            if let Ok(SendAs::Address(address)) = SendAs::parse(text) {
                look(&names, &address, &node, findings);
            }
        }
    }
}

fn look(names: &Names<'_>, address: &Address, node: &Node<'_>, findings: &mut Findings<'_>) {
    if !names.lacks(address) {
        return;
    }
    let domain = address.domain().map(ToString::to_string).unwrap_or_default();
    let help = format!(
        "add {:?} to `mailboxes` or `aliases` of [[domain]] {domain}; until then postmaster hears of mail that fails",
        address.local.to_string()
    );
    findings.warning(node, format!("nobody reads {address}: answers to its mail are refused"), help);
}
