//! Logins that are not offered, not taken, or have used up what they may send.

use postern_config::{LoginPorts, LoginState};

use super::Site;
use super::lines::list;
use super::relaying::{host, log_in};
use crate::shell::word;

pub(super) fn not_offered(missing: &str, site: &Site) -> Vec<String> {
    let exposed = "if the client sent the password with its AUTH command, that has crossed the network in clear: the \
                   login gets a new one, `posternctl account password NAME`";
    let exposed = (missing == "TLS").then(|| exposed.to_owned());
    std::iter::once(log_in_elsewhere(missing, site)).chain(exposed).collect()
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

/// A new password helps a login that has one here, and not one that does not exist.
pub(super) fn wrong_password(login: &str, why: Option<&str>, site: &Site) -> Vec<String> {
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

pub(super) fn restore(login: &str, state: &str) -> String {
    let verb = if state == LoginState::Disabled.as_str() { "enable" } else { "unlock" };
    format!("{verb} it: `posternctl account {verb} {}`", word(login))
}

pub(super) fn add_network(login: &str, client: &str, site: &Site) -> String {
    format!(
        "add the address to the networks of account {login:?} in {}, so that they are: networks = {}, then posternctl reload",
        site.accounts.display(),
        networks_with(login, client, site)
    )
}

/// All of them: they stand in the place of those in the file.
fn networks_with(login: &str, client: &str, site: &Site) -> String {
    let own = site.login(login).map(|own| own.networks.as_slice()).unwrap_or_default();
    let mut networks: Vec<String> = own.iter().map(ToString::to_string).collect();
    networks.push(host(client));
    list(&networks)
}

/// With the limits that the login has already, and high enough for what was asked. `can_wait`: there is room again some time.
pub(super) fn raise_limit(login: &str, limit: &str, used: u64, can_wait: bool, site: &Site) -> String {
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
