//! What would have allowed what was refused: the setting, or the command for it.
//!
//! | part | module |
//! |---|---|
//! | the ways to be allowed to relay | `relaying` |
//! | lines for the configuration, and where they go | `lines` |

mod lines;
mod relaying;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use postern_config::auth::OwnLimits;
use postern_config::paste::{Block, List, Places};
use postern_config::relay::{Recipients, RelayDomain};
use postern_config::surroundings::Surroundings;
use postern_config::units::format_duration;
use postern_config::{Account, Config, LoginPorts, LoginState};
use postern_smtp::{Address, Domain};

use crate::relay::Reason;
use crate::shell::word;

use lines::{added, list, list_of};
use relaying::{grant, host, log_in, relaying, trust, without_login};

/// What the ways out hang on in one configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    /// Where people log in.
    pub ports: LoginPorts,
    places: Places,
    accounts: PathBuf,
    labels: Vec<String>,
    has_temporary_grants: bool,
    /// By their names in lower case.
    logins: HashMap<String, Own>,
    /// Whether logins can be known that the file does not name.
    asks_others: bool,
    domains: Vec<Domain>,
    /// A list of recipients is left out.
    relay_domains: Vec<(Domain, Recipients)>,
    hostname: Option<Domain>,
    negative_ttl: Duration,
    surroundings: Surroundings,
    public_addresses: Vec<IpAddr>,
}

/// What of a login is changed in the file of logins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Own {
    networks: Vec<IpNet>,
    limits: OwnLimits,
}

impl Site {
    /// That of a configuration.
    pub fn of(config: &Config) -> Self {
        Self {
            ports: LoginPorts::of(&config.listeners),
            places: config.places.clone(),
            accounts: config.auth.accounts.clone(),
            labels: config.relay.grants.iter().map(|grant| grant.label.trim().to_owned()).collect(),
            has_temporary_grants: config.relay.temporary.enabled,
            logins: config.accounts.iter().map(own).collect(),
            asks_others: config.auth.asks_others(),
            domains: config.domains.iter().map(|domain| domain.name.clone()).collect(),
            relay_domains: config.relay.relay_domains.iter().map(who_exists).collect(),
            hostname: Some(config.hostname.clone()),
            negative_ttl: config.relay.call_forward.negative_ttl,
            surroundings: config.surroundings.clone(),
            public_addresses: config.policy.public_addresses.clone(),
        }
    }

    fn login(&self, name: &str) -> Option<&Own> {
        self.logins.get(&name.trim().to_lowercase())
    }

    /// The file in which a grant stands.
    fn grant_file(&self, label: &str) -> String {
        let at = self.labels.iter().position(|known| known == label.trim());
        let file = at.map_or(self.places.main(), |at| self.places.file_of(List::Grants, at));
        file.display().to_string()
    }

    /// A label that no grant has.
    fn free_label(&self, wanted: &str) -> String {
        let is_free = |label: &String| !self.labels.contains(label);
        let numbered = (2..).map(|number| format!("{wanted} ({number})"));
        std::iter::once(wanted.to_owned()).chain(numbered).find(is_free).unwrap_or_default()
    }

    /// How temporary grants are switched on, for whoever wants to give one.
    pub fn switch_on_temporary_grants(&self) -> String {
        let what = "temporary grants are switched off";
        added(what, &self.places, Block::Temporary, &[("enabled", "true".to_owned())])
    }

    fn main(&self) -> String {
        self.places.main().display().to_string()
    }
}

fn own(account: &Account) -> (String, Own) {
    let own = Own { networks: account.networks.clone(), limits: account.limits };
    (account.name.trim().to_lowercase(), own)
}

fn who_exists(domain: &RelayDomain) -> (Domain, Recipients) {
    let recipients = match &domain.recipients {
        Recipients::Listed(_) => Recipients::Listed(Vec::new()),
        other => other.clone(),
    };
    (domain.name.clone(), recipients)
}

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
    /// SHA-256 over the certificate that the client showed, in hexadecimal.
    pub certificate: Option<&'a str>,
    /// The configuration.
    pub site: &'a Site,
}

/// What would have allowed it, each way by itself, for the operator of this server. Empty for what is allowed.
pub fn remedies(asked: &Asked<'_>) -> Vec<String> {
    let Asked { reason, recipient, site, .. } = *asked;
    let (main, recipient) = (site.main(), recipient.map(without_brackets).unwrap_or_default());
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
        Reason::MalformedHeader => {
            vec!["the header of the message has fields only (RFC 5322 §2.2)".to_owned()]
        }
        Reason::NeedsSmtputf8 => {
            vec![
                "the client says SMTPUTF8 in MAIL, or writes the address in ASCII (RFC 6531 §3.5)".to_owned(),
            ]
        }
        Reason::TooManyRecipients { .. } => vec![
            "the client sends to the rest in another transaction, as 452 tells it (RFC 5321 §4.5.3.1.10)"
                .to_owned(),
            format!("or raise smtp.max_recipients in {main}, then posternctl reload"),
        ],
        Reason::NotTrustedNotLocal => relaying(asked),
        Reason::NotAuthenticated => [vec![log_in(site)], without_login(asked)].concat(),
        Reason::GrantTooNarrow { label, what } => {
            let widen = format!(
                "widen the grant {label:?} in {} so that it covers the {what}, then posternctl reload",
                site.grant_file(label)
            );
            let other = grant("or give the client one more grant", asked);
            [Some(widen), other, Some(log_in(site))].into_iter().flatten().collect()
        }
        Reason::HostNameUnknown { name } => vec![
            format!(
                "have the name servers of {name} answer: `posternctl relay list` says what is known of it"
            ),
            format!("or remove {name} from relay.hosts in {main}, then posternctl reload"),
        ],
        Reason::Rate { who, .. } => {
            let file = site.grant_file(who.strip_prefix("the grant ").unwrap_or(who));
            vec![format!(
                "wait, or raise the rate of {who} in relay.grants of {file}: rate = \"200/h\", then posternctl reload"
            )]
        }
        Reason::Quota { login, limit, used, resets_in } => {
            vec![raise_limit(login, limit, *used, resets_in.is_some(), site)]
        }
        Reason::SenderDomainNotListed { login, sender } | Reason::LoginLacksPermission { login, sender } => {
            send_as(login, sender)
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
            vec![format!(
                "wait until the name servers of {domain} answer, or see why the resolver cannot ask them"
            )]
        }
        Reason::SpfDoesNotCover { domain, .. } => {
            vec![format!("the owner of {domain} lists this server in the domain's SPF record")]
        }
        Reason::HeaderFromMismatch { grant: Some(label), field, address, .. } => {
            let or = format!("or the client names only senders of the grant in the {field} field");
            vec![
                format!(
                    "add {address} to the senders of the grant {label:?} in {}, then posternctl reload",
                    site.grant_file(label)
                ),
                or,
            ]
        }
        Reason::HeaderFromMismatch { login, field, address, .. } => match Address::parse(address) {
            Ok(_) => send_as(login, address),
            Err(_) => {
                vec![format!("the {field} field of the message names only addresses that {login} may use")]
            }
        },
        Reason::HeaderFromUnusable { .. } => {
            vec!["the message has one From field with an address in it (RFC 5322 §3.6.2)".to_owned()]
        }
        Reason::WrongPassword { login, why } => wrong_password(login, why.as_deref(), site),
        Reason::LoginNotOffered { missing } => {
            let exposed = "if the client sent the password with its AUTH command, that has crossed the network in clear: the \
                           login gets a new one, `posternctl account password NAME`";
            let exposed = (missing == "TLS").then(|| exposed.to_owned());
            std::iter::once(log_in_elsewhere(missing, site)).chain(exposed).collect()
        }
        Reason::LoginSuspended { login, state, .. } => {
            let verb = if state == LoginState::Disabled.as_str() { "enable" } else { "unlock" };
            vec![format!("{verb} it: `posternctl account {verb} {}`", word(login))]
        }
        Reason::ClientAddressNotAllowed { login, client } => {
            vec![format!(
                "add the address to the networks of account {login:?} in {}, so that they are: networks = {}, then posternctl \
                 reload",
                site.accounts.display(),
                networks_with(login, client, site)
            )]
        }
        Reason::UnknownRecipient => unknown_recipient(local, domain, site),
        Reason::AliasLoop => {
            vec![format!(
                "change the aliases of [[domain]] {domain:?} in {main} so that {local:?} does not lead back to itself, then \
                 posternctl reload"
            )]
        }
        Reason::BadDestination => {
            vec!["the recipient's address has a domain name instead of an address".to_owned()]
        }
        Reason::Blocklisted { client, lists, .. } => blocklisted(client, lists, asked),
        Reason::StandingRule { rule, .. } | Reason::HeaderBlockedSender { rule, .. } => {
            vec![format!(
                "remove the standing rule: `posternctl rule remove {rule}` (see `posternctl rule list`)"
            )]
        }
        Reason::RecipientPolicy { .. } => vec![format!(
            "remove the [[route]] with via = \"reject\" that matches from {main}, or put a route before it that matches first, \
                 then posternctl reload"
        )],
    }
}

fn log_in_elsewhere(missing: &str, site: &Site) -> String {
    let ports = &site.ports;
    let starttls = LoginPorts { tls: Vec::new(), ..ports.clone() }.words();
    let tls = ports.tls_words();
    match (missing, starttls, tls) {
        ("TLS", Some(starttls), Some(tls)) => {
            format!("the mail program uses STARTTLS on port {starttls}, or TLS on port {tls}")
        }
        ("TLS", _, _) => "the mail program uses STARTTLS first".to_owned(),
        _ => match ports.words() {
            Some(ports) => format!("the mail program uses port {ports}, where logins are taken"),
            None => log_in(site),
        },
    }
}

/// By the rule that refused: of a relay domain, or of a domain of ours.
fn unknown_recipient(local: &str, domain: &str, site: &Site) -> Vec<String> {
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

/// All of them: they stand in the place of those in the file.
fn networks_with(login: &str, client: &str, site: &Site) -> String {
    let own = site.login(login).map(|own| own.networks.as_slice()).unwrap_or_default();
    let mut networks: Vec<String> = own.iter().map(ToString::to_string).collect();
    networks.push(host(client));
    list(&networks)
}

/// A new password helps a login that has one here, and not one that does not exist.
fn wrong_password(login: &str, why: Option<&str>, site: &Site) -> Vec<String> {
    let name = word(login);
    if let Some(why) = why {
        return vec![format!(
            "{why}: `posternctl account show {name}` shows the app passwords, `posternctl account app-password add {name} LABEL` \
             makes another one"
        )];
    }
    let user =
        "the user enters the right name and password; `posternctl account list` shows the names".to_owned();
    let new = match site.login(login) {
        Some(_) => Some(format!("or the account gets a new password: `posternctl account password {name}`")),
        None if site.asks_others => {
            Some("or the account gets a new password where it is kept ([auth])".to_owned())
        }
        None => None,
    };
    std::iter::once(user).chain(new).collect()
}

/// With the limits that the login has already, and high enough for what was asked. `can_wait`: there is room again some time.
fn raise_limit(login: &str, limit: &str, used: u64, can_wait: bool, site: &Site) -> String {
    let key = limit_key(limit);
    let now: Option<u64> = limit.split_whitespace().next().and_then(|count| count.parse().ok());
    let enough = now.unwrap_or(100).saturating_mul(2).max(used);
    let own = site.login(login).map(|own| own.limits).unwrap_or_default();
    let limits = [
        ("per_message", own.per_message),
        ("per_hour", own.per_hour),
        ("per_day", own.per_day),
        ("new_recipients_per_day", own.new_recipients_per_day),
    ];
    let limits: Vec<String> = limits
        .into_iter()
        .filter_map(|(name, own)| Some((name, if name == key { enough } else { own?.into() })))
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    format!(
        "{}raise the limit of account {login:?} in {}: limits = {{ {} }}, then posternctl reload; for all accounts it is \
         auth.limits.{key} in {}",
        if can_wait { "wait, or " } else { "" },
        site.accounts.display(),
        limits.join(", "),
        site.main()
    )
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

/// The client's own way out first: it helps everywhere.
fn blocklisted(client: &str, lists: &str, asked: &Asked<'_>) -> Vec<String> {
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

fn send_as(login: &str, address: &str) -> Vec<String> {
    let mut ways = vec![format!(
        "let the login send as it: `posternctl account grant {} --send-as {}`",
        word(login),
        word(address)
    )];
    if let Some((_, domain)) = address.rsplit_once('@') {
        ways.push(format!(
            "or as its whole domain: `posternctl account grant {} --send-as {}`",
            word(login),
            word(&format!("@{domain}"))
        ));
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
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
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
            Reason::WrongPassword { login: text(), why: None },
            Reason::WrongPassword { login: text(), why: Some(text()) },
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
        ways_at(reason, &Site { ports: LoginPorts::of(&[]), ..Site::default() })
    }

    fn ways_at(reason: &Reason, site: &Site) -> Vec<String> {
        let (recipient, certificate) = (Some("<bob@adatum.test>"), None);
        remedies(&Asked {
            reason,
            client: "198.51.100.9",
            sender: "x@client.test",
            recipient,
            certificate,
            site,
        })
    }

    #[test]
    fn every_way_to_relay_is_named() {
        let ways = ways(&Reason::NotTrustedNotLocal);
        assert_eq!(ways.len(), 7, "{ways:#?}");
        assert_eq!(ways[0], "log in on port 587 or 465; `posternctl account add NAME` makes a login");
        assert_eq!(
            ways[2],
            "grant it to the client: at the end of postern.toml:\n[[relay.grants]]\nlabel = \"for 198.51.100.9\"\nnetwork = \
             \"198.51.100.9/32\"\nsenders = [\"x@client.test\"]\nrecipients = [\"bob@adatum.test\"]\nrate = \"100/h\"\nthen \
             posternctl reload"
        );
    }

    /// The file that printed lines go to, and the lines.
    fn block(way: &str) -> Option<(std::path::PathBuf, String)> {
        let (first, rest) = way.split_once('\n')?;
        let lines = rest.strip_suffix("then posternctl reload").unwrap().to_owned();
        let words = first.trim_end_matches(':');
        let file =
            words.rsplit_once(if words.contains("new file, ") { "new file, " } else { "at the end of " });
        Some((file.unwrap_or_else(|| panic!("{first}")).1.into(), lines))
    }

    fn load(path: &std::path::Path) -> Config {
        postern_config::load(path).unwrap_or_else(|error| panic!("{error}")).config
    }

    #[test]
    fn printed_lines_can_be_put_where_they_are_said_to_go() {
        const HEAD: &str = "hostname = \"mail.proseware.test\"\n";
        const LIST: &str = "[[policy.dnsbl]]\nlabel = \"zen\"\nzone = \"zen.example\"\n";
        let listed = |client: &str| Reason::Blocklisted {
            client: client.to_owned(),
            lists: "zen".to_owned(),
            answers: String::new(),
            weight: 1,
            text: None,
        };
        let narrow = Reason::GrantTooNarrow { label: "scanner".to_owned(), what: "sender".to_owned() };
        let mut pasted = 0;
        for text in [
            HEAD.to_owned(),
            format!("{HEAD}[relay]\nhost_refresh = \"2m\"\n"),
            format!(
                "{HEAD}[relay]\ntrusted_networks = [{{ network = \"127.0.0.0/8\", label = \"loopback\" }}]\n"
            ),
            format!(
                "{HEAD}[relay]\ngrants = []\nhosts = []\ncertificates = []\nrelay_domains = []\ntrusted_networks = []\n\
                 temporary = {{ max_ttl = \"1h\" }}\n"
            ),
            format!("{HEAD}[relay]\ntemporary = {{ enabled = true }}\n{LIST}"),
            format!("{HEAD}[policy]\npublic_addresses = [\"198.51.100.25\"]\n{LIST}"),
            format!(
                "{HEAD}[[relay.grants]]\nlabel = \"for 198.51.100.9\"\nnetwork = \"203.0.113.5/32\"\nsenders = [\"*\"]\n\
                 recipients = [\"*\"]\nrate = \"1/h\"\n# no line end after this"
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let main = folder.path().join("postern.toml");
            std::fs::write(&main, &text).unwrap();
            let site = Site::of(&load(&main));
            for reason in
                [&Reason::NotTrustedNotLocal, &Reason::NotAuthenticated, &narrow, &listed("198.51.100.9")]
            {
                for (file, lines) in ways_at(reason, &site).iter().filter_map(|way| block(way)) {
                    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                    let before = std::fs::read_to_string(&file).ok();
                    assert!(file == main || before.is_none(), "{}", file.display());
                    std::fs::write(&file, format!("{}\n{lines}", before.clone().unwrap_or_default()))
                        .unwrap();
                    load(&main);
                    pasted += 1;
                    match before {
                        Some(before) => std::fs::write(&file, before).unwrap(),
                        None => std::fs::remove_file(&file).unwrap(),
                    }
                }
            }
        }
        assert!(pasted > 80, "{pasted}");
    }

    #[test]
    fn a_key_that_is_set_is_changed_where_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("postern.toml");
        std::fs::write(&main, "hostname = \"x.test\"\n[relay.temporary]\nenabled = false\n").unwrap();
        let way = &ways_at(&Reason::NotTrustedNotLocal, &Site::of(&load(&main)))[1];
        assert!(
            way.contains("where [relay.temporary] has this key (") && way.contains("enabled = true"),
            "{way}"
        );
    }

    #[test]
    fn who_cannot_log_in_where_logins_are_asked_for_has_the_ways_without_one() {
        let ways = ways(&Reason::NotAuthenticated).join("\n");
        for way in ["log in on port 587 or 465", "posternctl relay grant 198.51.100.9", "[[relay.grants]]"] {
            assert!(ways.contains(way), "{ways}");
        }
    }

    #[test]
    fn ports_are_those_of_the_listeners() {
        let at = |listeners: &str| {
            let config: Config = toml::from_str(&format!("hostname = \"x.test\"\n{listeners}")).unwrap();
            let site = Site::of(&config);
            let tls = Reason::LoginNotOffered { missing: "TLS".to_owned() };
            let port = Reason::LoginNotOffered { missing: "a submission port".to_owned() };
            [&Reason::NotTrustedNotLocal, &tls, &port].map(|reason| ways_at(reason, &site)[0].clone())
        };
        let own = at("[[listener]]\nkind = \"submission\"\naddress = \"0.0.0.0:2587\"\n\
                      [[listener]]\nkind = \"submissions\"\naddress = \"0.0.0.0:2465\"\n");
        assert!(own[0].starts_with("log in on port 2587 or 2465;"), "{own:?}");
        assert_eq!(own[1], "the mail program uses STARTTLS on port 2587, or TLS on port 2465");
        assert_eq!(own[2], "the mail program uses port 2587 or 2465, where logins are taken");
        let none = at("[[listener]]\nkind = \"mx\"\naddress = \"0.0.0.0:25\"\n");
        assert!(none[0].contains("no listener takes logins") && none[2] == none[0], "{none:?}");
    }

    #[test]
    fn a_certificate_that_was_shown_is_named() {
        let (reason, site, sha256) = (&Reason::NotTrustedNotLocal, &Site::default(), "ab".repeat(32));
        let asked = Asked {
            reason,
            client: "192.0.2.1",
            sender: "",
            recipient: None,
            certificate: Some(&sha256),
            site,
        };
        assert!(remedies(&asked).join("\n").contains(&format!("sha256 = \"{sha256}\"")));
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

    fn site(text: &str, logins: &str) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("postern.toml");
        std::fs::write(&main, format!("hostname = \"mail.proseware.test\"\n{text}")).unwrap();
        std::fs::write(folder.path().join("accounts.toml"), logins).unwrap();
        Site::of(&load(&main))
    }

    const LOGIN: &str = "[[account]]\nname = \"Alice\"\npassword = \"$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzYWx0$MDEyMzQ1Njc4OWFiY2RlZg\"\n";

    #[test]
    fn an_unknown_recipient_is_added_where_the_rule_looked() {
        let site = site(
            "relay.relay_domains = [{ name = \"adatum.test\", recipients = [\"x\"] }]\n[[domain]]\nname = \"proseware.test\"\n",
            "",
        );
        let asked = |recipient: &str, site: &Site| {
            let (recipient, reason) = (Some(recipient), &Reason::UnknownRecipient);
            remedies(&Asked { reason, client: "192.0.2.1", sender: "", recipient, certificate: None, site })
                .join("\n")
        };
        let relay = asked("<bob@adatum.test>", &site);
        assert!(
            relay.contains("recipients of [[relay.relay_domains]]") && !relay.contains("[[domain]]"),
            "{relay}"
        );
        let local = asked("<bob@proseware.test>", &site);
        assert!(local.contains("mailboxes or aliases of [[domain]]") && !local.contains("relay"), "{local}");
        let host = asked("<bob@mail.proseware.test>", &site);
        assert!(host.contains("is the name of this server and no [[domain]]"), "{host}");
        let called = Site {
            relay_domains: vec![(Domain::parse("adatum.test").unwrap(), Recipients::CallForward)],
            ..site
        };
        let called = asked("<bob@adatum.test>", &called);
        assert!(called.contains("at the primary server") && called.contains("for 30m"), "{called}");
    }

    #[test]
    fn networks_and_limits_of_a_login_are_printed_whole() {
        let own = format!(
            "{LOGIN}networks = [\"192.0.2.0/24\", \"2001:db8::/32\"]\nlimits = {{ per_message = 5, per_hour = 4 }}\n"
        );
        let site = site("", &own);
        let reason =
            Reason::ClientAddressNotAllowed { login: "alice".to_owned(), client: "127.0.0.61".to_owned() };
        let said = ways_at(&reason, &site).join("\n");
        assert!(
            said.contains("networks = [\"192.0.2.0/24\", \"2001:db8::/32\", \"127.0.0.61/32\"]"),
            "{said}"
        );
        let quota = |limit: &str, used, resets_in| {
            let (login, limit) = ("alice".to_owned(), limit.to_owned());
            ways_at(&Reason::Quota { login, limit, used, resets_in }, &site).join("\n")
        };
        let hour = quota("4 recipients an hour", 9, Some(60));
        assert!(hour.starts_with("wait, or") && hour.contains("{ per_message = 5, per_hour = 9 }"), "{hour}");
        let message = quota("5 recipients a message", 6, None);
        assert!(
            !message.contains("wait") && message.contains("{ per_message = 10, per_hour = 4 }"),
            "{message}"
        );
    }

    #[test]
    fn a_new_password_is_for_logins_that_have_one_here() {
        let (site, why) = (site("", LOGIN), "the app password \"phone\" may not be used from 192.0.2.9");
        let ways = |login: &str, why: Option<&str>| {
            let (login, why) = (login.to_owned(), why.map(str::to_owned));
            ways_at(&Reason::WrongPassword { login, why }, &site).join("\n")
        };
        assert!(ways("alice", None).contains("`posternctl account password alice`"));
        assert!(!ways("nobody", None).contains("account password"));
        let app = ways("alice", Some(why));
        assert!(app.contains(why) && !app.contains("account password"), "{app}");
    }

    #[test]
    fn a_password_that_crossed_in_clear_is_to_be_changed() {
        let offered =
            |missing: &str| ways(&Reason::LoginNotOffered { missing: missing.to_owned() }).join("\n");
        assert!(offered("TLS").contains("crossed the network in clear"));
        assert!(!offered("a submission port").contains("in clear"));
    }

    #[test]
    fn a_grant_for_a_while_is_not_offered_to_the_server_itself() {
        let own = Surroundings { own: vec!["198.51.100.9".parse().unwrap()], ..Surroundings::default() };
        let site = Site { surroundings: own, ..Site::default() };
        let said = ways_at(&Reason::NotTrustedNotLocal, &site).join("\n");
        assert!(!said.contains("relay grant 198.51.100.9"), "{said}");
    }

    #[test]
    fn a_grant_is_widened_in_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let (main, parts) = (folder.path().join("postern.toml"), folder.path().join("conf.d"));
        std::fs::create_dir(&parts).unwrap();
        std::fs::write(&main, "hostname = \"mail.proseware.test\"\n").unwrap();
        let grant = "[[relay.grants]]\nlabel = \"scanner\"\nnetwork = \"192.0.2.40/32\"\nsenders = [\"*\"]\nrecipients = [\"@adatum.test\"]\nrate = \"1/h\"\n";
        std::fs::write(parts.join("relay.toml"), grant).unwrap();
        let narrow = Reason::GrantTooNarrow { label: "scanner".to_owned(), what: "sender".to_owned() };
        let said = &ways_at(&narrow, &Site::of(&load(&main)))[0];
        assert!(said.contains(&parts.join("relay.toml").display().to_string()), "{said}");
    }

    #[test]
    fn an_address_is_written_as_a_network_of_one() {
        let reason = &Reason::NotAuthenticated;
        let (client, recipient, certificate, site) = ("2001:db8::1", None, None, &Site::default());
        let way = remedies(&Asked { reason, client, sender: "", recipient, certificate, site }).join("\n");
        assert!(way.contains("\"2001:db8::1/128\""), "{way}");
    }
}
