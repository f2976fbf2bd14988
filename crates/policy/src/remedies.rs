//! What would have allowed what was refused: the setting, or the command for it.

use postern_smtp::Address;

use crate::relay::Reason;

/// What was refused.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Why.
    pub reason: &'a Reason,
    /// The client's address.
    pub client: &'a str,
    /// MAIL FROM; empty is the null sender.
    pub sender: &'a str,
    /// RCPT TO as the client wrote it, with or without angle brackets, if it was about a recipient.
    pub recipient: Option<&'a str>,
}

/// What would have allowed it, each way by itself, for the operator of this server. Empty for what is allowed.
pub fn remedies(asked: &Asked<'_>) -> Vec<String> {
    let Asked { reason, client, sender, recipient } = *asked;
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
        | Reason::SenderAllowed
        | Reason::ConnectionAllowed => Vec::new(),
        Reason::Banned { network, .. } => vec![format!("end the ban: `posternctl ban remove {network}`")],
        Reason::MalformedHeader => vec!["the header of the message has fields only (RFC 5322 §2.2)".to_owned()],
        Reason::NeedsSmtputf8 => {
            vec!["the client says SMTPUTF8 in MAIL, or writes the address in ASCII (RFC 6531 §3.5)".to_owned()]
        }
        Reason::TooManyRecipients { .. } => vec![
            "the client sends to the rest in another transaction, as 452 tells it (RFC 5321 §4.5.3.1.10)".to_owned(),
            "or raise smtp.max_recipients".to_owned(),
        ],
        Reason::NotTrustedNotLocal => relaying(client, without_brackets(sender), recipient, domain),
        Reason::NotAuthenticated => vec![LOG_IN.to_owned(), trust(client)],
        Reason::GrantTooNarrow { label, what } => vec![
            format!("widen the grant {label:?} in relay.grants so that it covers the {what}"),
            LOG_IN.to_owned(),
        ],
        Reason::HostNameUnknown { name } => vec![
            format!("have the name servers of {name} answer: `posternctl relay list` says what is known of it"),
            format!("or remove {name} from relay.hosts"),
        ],
        Reason::Rate { who, .. } => {
            vec![format!("wait, or raise the rate of {who} in relay.grants: rate = \"...\"")]
        }
        Reason::Quota { login, limit, .. } => vec![format!(
            "wait, or raise the limit of account {login:?} in accounts.toml: limits = {{ {key} = ... }}; for all accounts it is \
             auth.limits.{key}",
            key = limit_key(limit)
        )],
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
        Reason::HeaderFromMismatch { grant: Some(label), field, address, .. } => {
            let or = format!("or the client names only senders of the grant in the {field} field");
            vec![format!("add {address} to the senders of the grant {label:?} in relay.grants"), or]
        }
        Reason::HeaderFromMismatch { login, field, address, .. } => match Address::parse(address) {
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
        Reason::Blocklisted { client, lists, .. } => blocklisted(client, lists),
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
fn relaying(client: &str, sender: &str, recipient: &str, domain: &str) -> Vec<String> {
    let (host, sender) = (host(client), if sender.is_empty() { "<>" } else { sender });
    vec![
        LOG_IN.to_owned(),
        format!(
            "let the client in for a while: `posternctl relay grant {client} --ttl 30m --reason \"...\"`, with \
             relay.temporary = {{ enabled = true }}"
        ),
        format!(
            "grant it to the client: relay.grants = [{{ label = \"...\", network = {host:?}, senders = [{sender:?}], recipients = \
             [{recipient:?}], rate = \"100/h\" }}]"
        ),
        "let the client in by its certificate: relay.certificates = [{ sha256 = \"...\", label = \"...\" }]"
            .to_owned(),
        "let the client in by its host name: relay.hosts = [{ name = \"...\", label = \"...\" }]".to_owned(),
        trust(client),
        format!(
            "only where this server is a backup of the domain, as everybody may send there then: relay.relay_domains = \
             [{{ name = {domain:?}, recipients = \"call-forward\" }}]"
        ),
    ]
}

/// The setting of a limit of a login, by its words: `200 recipients an hour`.
fn limit_key(limit: &str) -> &'static str {
    const KEYS: [(&str, &str); 4] = [
        ("new recipients a day", "new_recipients_per_day"),
        ("a day", "per_day"),
        ("an hour", "per_hour"),
        ("a message", "per_message"),
    ];
    KEYS.iter().find(|(words, _)| limit.ends_with(words)).map_or("per_hour", |(_, key)| key)
}

fn trust(client: &str) -> String {
    format!(
        "trust the client: relay.trusted_networks = [{{ network = {:?}, label = \"...\" }}]",
        host(client)
    )
}

/// The client's own way out first: it helps everywhere.
fn blocklisted(client: &str, lists: &str) -> Vec<String> {
    vec![
        format!("whoever runs {client} has it removed from {lists}, once what it was listed for has ended"),
        format!("or spare the client: policy.dnsbl_exempt = [{:?}]", host(client)),
        "or weigh the list less: its weight, its answers or action = \"log\" in [[policy.dnsbl]], or policy.dnsbl_threshold"
            .to_owned(),
        format!("or, if the client is yours, {}", trust(client)),
    ]
}

/// One address as a network.
fn host(client: &str) -> String {
    let bits = if client.contains(':') { 128 } else { 32 };
    format!("{client}/{bits}")
}

fn grant(login: &str, address: &str) -> Vec<String> {
    let mut ways =
        vec![format!("let the login send as it: `posternctl account grant {login} --send-as {address}`")];
    if let Some((_, domain)) = address.rsplit_once('@') {
        ways.push(format!("or as its whole domain: `posternctl account grant {login} --send-as @{domain}`"));
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
            Reason::HeaderFromMismatch {
                login: text(),
                grant: None,
                field: text(),
                address: "not one".to_owned(),
            },
            Reason::HeaderFromMismatch {
                login: String::new(),
                grant: Some(text()),
                field: text(),
                address: text(),
            },
            Reason::HeaderFromUnusable { problem: text() },
            Reason::WrongPassword { login: text() },
            Reason::LoginNotOffered { missing: "TLS".to_owned() },
            Reason::LoginNotOffered { missing: "a submission port".to_owned() },
            Reason::LoginSuspended { login: text(), state: text(), why: text() },
            Reason::ClientAddressNotAllowed { login: text(), client: "2001:db8::1".to_owned() },
            Reason::UnknownRecipient,
            Reason::Banned { network: text(), why: text(), by_hand: true },
            Reason::MalformedHeader,
            Reason::NeedsSmtputf8,
            Reason::TooManyRecipients { limit: 1 },
            Reason::AliasLoop,
            Reason::BadDestination,
            Reason::RecipientPolicy { text: text() },
            Reason::Blocklisted { client: text(), lists: text(), answers: text(), weight: 1, text: None },
            Reason::StandingRule { rule: text(), why: text(), text: text() },
            Reason::HeaderBlockedSender { rule: text(), why: text(), text: text() },
        ] {
            assert!(!ways(&reason).is_empty(), "{reason:?}");
        }
        assert!(ways(&Reason::SenderAllowed).is_empty());
    }

    fn ways(reason: &Reason) -> Vec<String> {
        let recipient = Some("<bob@adatum.test>");
        remedies(&Asked { reason, client: "198.51.100.9", sender: "x@client.test", recipient })
    }

    #[test]
    fn every_way_to_relay_is_named() {
        let ways = ways(&Reason::NotTrustedNotLocal);
        assert_eq!(ways.len(), 7, "{ways:#?}");
        assert_eq!(
            ways[2],
            "grant it to the client: relay.grants = [{ label = \"...\", network = \"198.51.100.9/32\", senders = \
             [\"x@client.test\"], recipients = [\"bob@adatum.test\"], rate = \"100/h\" }]"
        );
    }

    #[test]
    fn a_limit_names_its_setting() {
        let quota = |limit: &str| {
            let limit = limit.to_owned();
            ways(&Reason::Quota { login: "alice".to_owned(), limit, used: 1, resets_in: None }).join("\n")
        };
        for (limit, key) in [
            ("5 recipients a message", "per_message"),
            ("5 recipients an hour", "per_hour"),
            ("5 recipients a day", "per_day"),
            ("5 new recipients a day", "new_recipients_per_day"),
        ] {
            let said = quota(limit);
            assert!(
                said.contains(&format!("{{ {key} = ")) && said.contains(&format!("auth.limits.{key}")),
                "{said}"
            );
        }
        let rate = Reason::Rate { who: "the grant scanner".to_owned(), limit: String::new(), resets_in: 1 };
        assert!(ways(&rate)[0].contains("the grant scanner in relay.grants"));
    }

    #[test]
    fn an_address_is_written_as_a_network_of_one() {
        let reason = &Reason::NotAuthenticated;
        let way = remedies(&Asked { reason, client: "2001:db8::1", sender: "", recipient: None }).join("\n");
        assert!(way.contains("\"2001:db8::1/128\""), "{way}");
    }
}
