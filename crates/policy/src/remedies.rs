//! What would have allowed what was refused: the setting, or the command for it.
//!
//! | part | module |
//! |---|---|
//! | clients that are kept out, whatever they ask | `clients` |
//! | the ways to be allowed to relay | `relaying` |
//! | logins | `logins` |
//! | senders, of the envelope and of the header | `senders` |
//! | recipients | `recipients` |
//! | lines for the configuration, and where they go | `lines` |

mod clients;
mod lines;
mod logins;
mod recipients;
mod relaying;
mod senders;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use postern_config::auth::OwnLimits;
use postern_config::paste::{Block, List, Places};
use postern_config::relay::{Recipients, RelayDomain};
use postern_config::surroundings::Surroundings;
use postern_config::{Account, Config, LoginPorts};
use postern_smtp::Domain;

use crate::relay::Reason;

use lines::added;

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

impl<'a> Asked<'a> {
    /// The recipient's local part and domain; empty where there is none.
    fn recipient_parts(&self) -> (&'a str, &'a str) {
        let recipient = self.recipient.map(without_brackets).unwrap_or_default();
        recipient.rsplit_once('@').unwrap_or((recipient, ""))
    }
}

/// What would have allowed it, each way by itself, for the operator of this server. Empty for what is allowed.
pub fn remedies(asked: &Asked<'_>) -> Vec<String> {
    let Asked { reason, site, .. } = *asked;
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

        Reason::Banned { network, .. } => vec![clients::end_ban(network)],
        Reason::Blocklisted { client, lists, .. } => clients::blocklisted(client, lists, asked),
        Reason::StandingRule { rule, .. } | Reason::HeaderBlockedSender { rule, .. } => {
            vec![clients::remove_rule(rule)]
        }
        Reason::DnsTrouble { domain, .. } => vec![clients::wait_for_dns(domain)],

        Reason::NotTrustedNotLocal => relaying::relaying(asked),
        Reason::NotAuthenticated => [vec![relaying::log_in(site)], relaying::without_login(asked)].concat(),
        Reason::GrantTooNarrow { label, what } => relaying::widen_grant(label, what, asked),
        Reason::Rate { who, .. } => vec![relaying::raise_rate(who, site)],
        Reason::HostNameUnknown { name } => relaying::host_name_unknown(name, site),

        Reason::WrongPassword { login, why } => logins::wrong_password(login, why.as_deref(), site),
        Reason::LoginNotOffered { missing } => logins::not_offered(missing, site),
        Reason::LoginSuspended { login, state, .. } => vec![logins::restore(login, state)],
        Reason::ClientAddressNotAllowed { login, client } => vec![logins::add_network(login, client, site)],
        Reason::Quota { login, limit, used, resets_in } => {
            vec![logins::raise_limit(login, limit, *used, resets_in.is_some(), site)]
        }

        Reason::SenderDomainNotListed { login, sender } | Reason::LoginLacksPermission { login, sender } => {
            senders::send_as(login, sender)
        }
        Reason::DomainNotVerified { domain, missing, .. } => senders::verify(domain, missing),
        Reason::OwnersLock { login, domain, problem } => {
            vec![senders::owners_lock(login, domain, problem.is_some())]
        }
        Reason::SpfDoesNotCover { domain, .. } => vec![senders::cover_by_spf(domain)],
        Reason::HeaderFromMismatch { grant: Some(label), field, address, .. } => {
            senders::header_of_grant(label, field, address, site)
        }
        Reason::HeaderFromMismatch { login, field, address, .. } => {
            senders::header_of_login(login, field, address)
        }
        Reason::HeaderFromUnusable { .. } => {
            vec!["the message has one From field with an address in it (RFC 5322 §3.6.2)".to_owned()]
        }
        Reason::MalformedHeader => {
            vec!["the header of the message has fields only (RFC 5322 §2.2)".to_owned()]
        }

        Reason::UnknownRecipient => recipients::unknown(asked),
        Reason::AliasLoop => vec![recipients::alias_loop(asked)],
        Reason::RecipientPolicy { .. } => vec![recipients::rejecting_route(site)],
        Reason::TooManyRecipients { .. } => recipients::too_many(site),
        Reason::BadDestination => {
            vec!["the recipient's address has a domain name instead of an address".to_owned()]
        }
        Reason::NeedsSmtputf8 => vec![
            "the client says SMTPUTF8 in MAIL, or writes the address in ASCII (RFC 6531 §3.5)".to_owned(),
        ],
    }
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
