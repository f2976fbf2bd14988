//! What would have allowed what was refused: the setting, or the command for it.

use postern_smtp::Address;

use crate::relay::Reason;

/// What would have allowed it, each way by itself, for the operator of this server. Empty for what is allowed. `recipient` is
/// as the client wrote it, with or without angle brackets.
pub fn remedies(reason: &Reason, client: &str, recipient: Option<&str>) -> Vec<String> {
    let recipient = recipient.map(without_brackets).unwrap_or_default();
    let (local, domain) = recipient.rsplit_once('@').unwrap_or((recipient, ""));
    match reason {
        Reason::LocalRecipient
        | Reason::RelayDomain
        | Reason::TrustedNetwork { .. }
        | Reason::AddressGrant { .. }
        | Reason::TemporaryGrant { .. }
        | Reason::HostName { .. }
        | Reason::ClientCertificate { .. }
        | Reason::Authenticated { .. }
        | Reason::LoginAllowed { .. }
        | Reason::SenderAllowed => Vec::new(),
        Reason::NotTrustedNotLocal => relaying(client, domain),
        Reason::NotAuthenticated => vec![LOG_IN.to_owned(), trust(client)],
        Reason::GrantTooNarrow { label, what } => vec![
            format!("widen the grant {label:?} in relay.grants so that it covers the {what}"),
            LOG_IN.to_owned(),
        ],
        Reason::HostNameUnknown { name } => vec![
            format!("have the name servers of {name} answer: `posternctl relay list` says what is known of it"),
            format!("or remove {name} from relay.hosts"),
        ],
        Reason::Rate { who, .. } => vec![format!("wait, or raise the rate of {who}")],
        Reason::Quota { login, .. } => {
            vec![format!("wait, or raise the limits of account {login:?} in accounts.toml: limits = {{ ... }}")]
        }
        Reason::SenderDomainNotListed { login, sender } | Reason::LoginLacksPermission { login, sender } => {
            grant(login, sender)
        }
        Reason::DomainNotVerified { domain, missing, .. } => vec![
            format!("publish what is missing ({missing}): `posternctl domain records {domain}` prints it"),
            format!("then have it looked at: `posternctl domain verify {domain}`"),
        ],
        Reason::OwnersLock { login, domain, problem: None } => vec![format!(
            "the owner of {domain} adds {login} to the TXT record at _postern.{domain}, or removes the record"
        )],
        Reason::OwnersLock { login, domain, .. } => vec![format!(
            "the owner of {domain} mends the TXT record at _postern.{domain}: \"v=postern1; logins={login}\""
        )],
        Reason::DnsTrouble { domain, .. } => {
            vec![format!("wait until the name servers of {domain} answer, or see why the resolver cannot ask them")]
        }
        Reason::SpfDoesNotCover { domain, .. } => {
            vec![format!("the owner of {domain} lists this server in the domain's SPF record")]
        }
        Reason::HeaderFromMismatch { login, field, address } => match Address::parse(address) {
            Ok(_) => grant(login, address),
            Err(_) => vec![format!("the {field} field of the message names only addresses that {login} may use")],
        },
        Reason::HeaderFromUnusable { .. } => {
            vec!["the message has one From field with an address in it (RFC 5322 §3.6.2)".to_owned()]
        }
        Reason::WrongPassword { .. } => vec![
            "the user enters the right name and password; `posternctl account list` shows the names".to_owned(),
            "or the account gets a new password: `posternctl account password NAME`".to_owned(),
        ],
        Reason::LoginNotOffered { missing } if missing == "TLS" => {
            vec!["the mail program uses STARTTLS on port 587, or TLS on port 465".to_owned()]
        }
        Reason::LoginNotOffered { .. } => vec!["the mail program uses port 587 or 465, not 25".to_owned()],
        Reason::LoginSuspended { login, .. } => vec![format!("unlock it: `posternctl account unlock {login}`")],
        Reason::ClientAddressNotAllowed { login, client } => {
            vec![format!("add the address to account {login:?} in accounts.toml: networks = [{:?}]", host(client))]
        }
        Reason::UnknownRecipient => vec![
            format!("add {local:?} to the mailboxes or aliases of [[domain]] {domain:?}, or set its catch_all"),
            format!("for a relay domain: add {local:?} to its recipients in relay.relay_domains"),
        ],
        Reason::AliasLoop => {
            vec![format!("change the aliases of [[domain]] {domain:?} so that {local:?} does not lead back to itself")]
        }
        Reason::BadDestination => vec!["the recipient's address has a domain name instead of an address".to_owned()],
        Reason::StandingRule { rule, .. } | Reason::HeaderBlockedSender { rule, .. } => {
            vec![format!("remove the standing rule: `posternctl rule remove {rule}` (see `posternctl rule list`)")]
        }
        Reason::RecipientPolicy { .. } => vec![
            "remove the [[route]] with via = \"reject\" that matches, or put a route before it that matches first"
                .to_owned(),
        ],
    }
}

const LOG_IN: &str = "log in on port 587 or 465; `posternctl account add NAME` makes a login";

/// All ways to be allowed to relay, the narrowest first.
fn relaying(client: &str, domain: &str) -> Vec<String> {
    vec![
        LOG_IN.to_owned(),
        trust(client),
        format!("relay for the domain: relay.relay_domains = [{{ name = {domain:?} }}]"),
    ]
}

fn trust(client: &str) -> String {
    format!(
        "trust the client: relay.trusted_networks = [{{ network = {:?}, label = \"...\" }}]",
        host(client)
    )
}

/// One address as a network.
fn host(client: &str) -> String {
    let bits = if client.contains(':') { 128 } else { 32 };
    format!("{client}/{bits}")
}

fn grant(login: &str, address: &str) -> Vec<String> {
    let mut ways =
        vec![format!("grant the sender to account {login:?} in accounts.toml: send_as = [{address:?}]")];
    if let Some((_, domain)) = address.rsplit_once('@') {
        ways.push(format!("or its whole domain: domains = [{domain:?}]"));
    }
    ways
}

/// People copy addresses with their angle brackets.
fn without_brackets(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_way_out() {
        let text = || "x@adatum.test".to_owned();
        for reason in [
            Reason::NotAuthenticated,
            Reason::NotTrustedNotLocal,
            Reason::GrantTooNarrow { label: text(), what: text() },
            Reason::HostNameUnknown { name: text() },
            Reason::Rate { who: text(), limit: text(), resets_in: 1 },
            Reason::Quota { login: text(), limit: text(), used: 1, resets_in: None },
            Reason::SenderDomainNotListed { login: text(), sender: text() },
            Reason::LoginLacksPermission { login: text(), sender: text() },
            Reason::DomainNotVerified { domain: text(), state: text(), missing: text() },
            Reason::OwnersLock { login: text(), domain: text(), problem: None },
            Reason::OwnersLock { login: text(), domain: text(), problem: Some(text()) },
            Reason::DnsTrouble { domain: text(), what: text() },
            Reason::SpfDoesNotCover { login: text(), domain: text(), result: text() },
            Reason::HeaderFromMismatch { login: text(), field: text(), address: "not one".to_owned() },
            Reason::HeaderFromUnusable { problem: text() },
            Reason::WrongPassword { login: text() },
            Reason::LoginNotOffered { missing: "TLS".to_owned() },
            Reason::LoginNotOffered { missing: "a submission port".to_owned() },
            Reason::LoginSuspended { login: text(), state: text(), why: text() },
            Reason::ClientAddressNotAllowed { login: text(), client: "2001:db8::1".to_owned() },
            Reason::UnknownRecipient,
            Reason::AliasLoop,
            Reason::BadDestination,
            Reason::RecipientPolicy { text: text() },
            Reason::StandingRule { rule: text(), why: text(), text: text() },
            Reason::HeaderBlockedSender { rule: text(), why: text(), text: text() },
        ] {
            assert!(!remedies(&reason, "198.51.100.9", Some("<bob@adatum.test>")).is_empty(), "{reason:?}");
        }
        assert!(remedies(&Reason::SenderAllowed, "198.51.100.9", None).is_empty());
    }

    #[test]
    fn an_address_is_written_as_a_network_of_one() {
        let way = remedies(&Reason::NotAuthenticated, "2001:db8::1", None).join("\n");
        assert!(way.contains("\"2001:db8::1/128\""), "{way}");
    }
}
