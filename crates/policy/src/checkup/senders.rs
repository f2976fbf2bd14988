//! May the right logins send, and as whom? And does somebody hear of it when mail of theirs, or of a grant, fails?

use std::collections::HashSet;
use std::time::SystemTime;

use postern_config::account::SendAs;
use postern_config::relay::{Grant, Scope};
use postern_config::{Account, Config, LoginState, Permission};
use postern_smtp::{Address, Domain, ForwardPath};

use super::Finding;
use crate::Policy;
use crate::directory::Resolution;
use crate::shell::word;

/// Logins that are listed though nothing is wrong with them.
const MOST_LISTED: usize = 100;
/// Findings about logins: whoever has more of them mends a template, not logins.
const MOST_FINDINGS: usize = 1000;
/// Grants of one login that are named.
const MOST_NAMED: usize = 10;

/// Looks at every login and every `[[domain]]`. Names no password and no hash.
pub fn senders(config: &Config, policy: &Policy, now: SystemTime) -> Vec<Finding> {
    let mut found = Vec::new();
    let takes_logins = config.listeners.iter().any(|listener| listener.kind.is_submission());
    let nobody_logs_in = config.accounts.is_empty() && !config.auth.asks_others();
    match (nobody_logs_in, takes_logins) {
        (true, true) => found.push(
            Finding::warning("auth.accounts", "there is no login: nobody can send mail through this server")
                .mend("posternctl account add NAME@DOMAIN"),
        ),
        (false, false) => found.push(
            Finding::error("listener", "there are logins, and no listener takes them")
                .mend("add [tls], and a [[listener]] with kind = \"submission\" or \"submissions\""),
        ),
        (true, false) | (false, true) => {}
    }
    for account in &config.accounts {
        of_login(account, config, policy, now, &mut found);
    }
    for grant in &config.relay.grants {
        of_grant(grant, config, policy, &mut found);
    }
    let concerns = found.iter().filter(|finding| finding.is_concern()).count();
    if concerns > MOST_FINDINGS {
        found.retain(Finding::is_concern);
        found.truncate(MOST_FINDINGS);
        found.push(Finding::warning("auth.accounts", format!("{} more findings", concerns - MOST_FINDINGS)));
    }
    list(config, &mut found);
    if takes_logins && !config.accounts.is_empty() {
        domains_without_login(config, policy, &mut found);
    }
    found
}

fn of_login(account: &Account, config: &Config, policy: &Policy, now: SystemTime, found: &mut Vec<Finding>) {
    let place = format!("login {}", account.name);
    let unlock = format!("posternctl account unlock {}", word(&account.name));
    let why = account.state_reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    match account.state {
        LoginState::Active => {}
        LoginState::Disabled => found.push(
            Finding::note(&place, format!("it is disabled{why}"))
                .mend(format!("posternctl account enable {}", word(&account.name))),
        ),
        state => found.push(Finding::warning(&place, format!("it is {}{why}", state.as_str())).mend(&unlock)),
    }
    if let Some(suspension) = suspension(account, policy) {
        let text = format!("the server has suspended it: {suspension}");
        found.push(Finding::warning(&place, text).mend(unlock));
    }
    if sends_as_anybody(account) && !account.any_if_spf {
        found.push(
            Finding::warning(&place, "it may send as anybody in the world")
                .mend("in the file of logins: permission = \"local\", or any_if_spf = true"),
        );
    }
    let is_granted = !account.domains.is_empty() || !account.send_as.is_empty();
    match Address::parse(&account.name) {
        Err(_) if account.permission == Permission::Listed && !is_granted => found.push(
            Finding::error(&place, "it may send as nobody: its name is no address, and it is granted none")
                .mend(format!("posternctl account grant {} --send-as NAME@DOMAIN", word(&account.name))),
        ),
        Ok(address) if account.state != LoginState::Disabled => {
            unreachable(&place, &address, config, policy, found)
        }
        Ok(_) | Err(_) => {}
    }
    if account.state != LoginState::Disabled {
        for text in &account.send_as {
            if let Ok(SendAs::Address(address)) = SendAs::parse(text) {
                unreachable(&place, &address, config, policy, found);
            }
        }
    }
    for app in account.app_passwords.iter().filter(|app| app.end().is_some_and(|end| end <= now)) {
        let remedy =
            format!("posternctl account app-password remove {} {}", word(&account.name), word(&app.label));
        found.push(
            Finding::note(&place, format!("the app password {:?} has expired", app.label)).mend(remedy),
        );
    }
}

/// Mail of a device fails, too, and somebody has to hear of it.
fn of_grant(grant: &Grant, config: &Config, policy: &Policy, found: &mut Vec<Finding>) {
    let place = format!("grant {}", grant.label.trim());
    for text in &grant.senders {
        if let Ok(Scope::Address(address)) = Scope::parse(text) {
            unreachable(&place, &address, config, policy, found);
        }
    }
}

fn suspension(account: &Account, policy: &Policy) -> Option<String> {
    let suspension = policy.standing.suspensions.find(&account.name.trim().to_lowercase());
    suspension.map(|suspension| suspension.why)
}

/// Answers to mail of the login come back, and bounces too: there must be somebody.
fn unreachable(place: &str, address: &Address, config: &Config, policy: &Policy, found: &mut Vec<Finding>) {
    let Some(domain) = address.domain().filter(|domain| policy.directory.is_configured(domain)) else {
        return;
    };
    // A domain of which no mailbox is here has them elsewhere.
    let has_mailboxes = config.domains.iter().any(|local| {
        local.name == *domain
            && (!local.mailboxes.is_empty() || !local.aliases.is_empty() || local.catch_all.is_some())
    });
    let resolved = policy.directory.resolve(&ForwardPath::Address(address.clone()), None);
    if has_mailboxes && resolved == Resolution::Unknown {
        let text = format!("there is no mailbox {address}: answers and bounces are refused");
        let remedy = format!(
            "in [[domain]] {domain}: add {:?} to mailboxes, or to aliases with whom it stands for",
            address.local.to_string()
        );
        found.push(Finding::warning(place, text).mend(remedy));
    }
}

fn sends_as_anybody(account: &Account) -> bool {
    account.permission == Permission::Any || account.send_as.iter().any(|grant| grant == "*")
}

/// Who may send as whom, as long as it can be read.
fn list(config: &Config, found: &mut Vec<Finding>) {
    for account in config.accounts.iter().take(MOST_LISTED) {
        found.push(Finding::note(format!("login {}", account.name), may_send_as(account)));
    }
    if let Some(more) = config.accounts.len().checked_sub(MOST_LISTED).filter(|more| *more > 0) {
        found.push(Finding::note("auth.accounts", format!("{more} more logins: posternctl account list")));
    }
}

fn may_send_as(account: &Account) -> String {
    let mut whom: Vec<String> = Vec::new();
    match account.permission {
        Permission::Listed => {}
        Permission::Local => whom.push("every [[domain]] of this server".to_owned()),
        Permission::Any if account.any_if_spf => {
            whom.push("every domain whose SPF covers this server".to_owned())
        }
        Permission::Any => whom.push("anybody".to_owned()),
    }
    whom.extend(Address::parse(&account.name).ok().map(|address| address.to_string()));
    whom.extend(account.domains.iter().map(|domain| format!("@{}", domain.0)));
    whom.extend(account.send_as.iter().cloned());
    let more = whom.len().saturating_sub(MOST_NAMED);
    whom.truncate(MOST_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    if whom.is_empty() {
        "may send as nobody".to_owned()
    } else {
        format!("may send as {}{more}", whom.join(", "))
    }
}

fn domains_without_login(config: &Config, policy: &Policy, found: &mut Vec<Finding>) {
    let mut covered: HashSet<Domain> = HashSet::new();
    for account in &config.accounts {
        if account.state != LoginState::Active || suspension(account, policy).is_some() {
            continue;
        }
        if account.permission == Permission::Local || sends_as_anybody(account) {
            return;
        }
        covered.extend(Address::parse(&account.name).ok().and_then(|address| address.domain().cloned()));
        covered.extend(account.domains.iter().map(|domain| domain.0.clone()));
        for grant in account.send_as.iter().filter_map(|grant| SendAs::parse(grant).ok()) {
            match grant {
                SendAs::Address(address) => covered.extend(address.domain().cloned()),
                SendAs::Domain(domain) => drop(covered.insert(domain)),
                SendAs::Anything => {}
            }
        }
    }
    for domain in config.domains.iter().filter(|domain| !covered.contains(&domain.name)) {
        let name = &domain.name;
        found.push(
            Finding::warning(format!("domain {name}"), "no login that can be used may send for it")
                .mend(format!("posternctl account add NAME@{name}, or domains = [\"{name}\"] for a login")),
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::checkup::Weight;
    use crate::standing::Standing;
    use crate::standing::suspensions::Suspension;

    const HASH: &str = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzYWx0$MDEyMzQ1Njc4OWFiY2RlZg";

    /// The configuration of two domains and these logins.
    fn config(accounts: &str) -> Config {
        let mut config: Config = toml::from_str(
            "hostname = \"mail.proseware.test\"\n\
             listener = [{ kind = \"submission\", address = \"127.0.0.1:587\" }]\n\
             [[domain]]\nname = \"proseware.test\"\nmailboxes = [\"alice\"]\n[[domain]]\nname = \"adatum.test\"\n",
        )
        .unwrap();
        let accounts = accounts.replace("PASSWORD", &format!("password = {HASH:?}"));
        let file: postern_config::account::AccountsFile = toml::from_str(&accounts).unwrap();
        config.accounts = file.accounts;
        config
    }

    /// The concerns as `place: text`.
    fn concerns(config: &Config, standing: Standing) -> Vec<String> {
        let policy = Policy::over(config, Arc::new(standing));
        let found = senders(config, &policy, UNIX_EPOCH + Duration::from_secs(1_795_284_325));
        assert!(found.iter().all(|finding| !format!("{finding:?}").contains("argon2")), "{found:?}");
        assert!(found.iter().filter(|f| f.is_concern()).all(|f| f.remedy.is_some()), "{found:?}");
        let concerns = found.iter().filter(|finding| finding.is_concern());
        concerns.map(|finding| format!("{}: {}", finding.place, finding.text)).collect()
    }

    #[test]
    fn logins_that_fit_are_no_concern_and_are_listed() {
        let config =
            config("[[account]]\nname = \"alice@proseware.test\"\nPASSWORD\nsend_as = [\"@adatum.test\"]\n");
        assert_eq!(concerns(&config, Standing::default()), [] as [String; 0]);
        let found = senders(&config, &Policy::new(&config), UNIX_EPOCH);
        let listed =
            Finding::note("login alice@proseware.test", "may send as alice@proseware.test, @adatum.test");
        assert_eq!(found, [listed]);
    }

    #[test]
    fn what_is_wrong_with_logins_is_found() {
        let config = config(
            "[[account]]\nname = \"alice@proseware.test\"\nPASSWORD\nstate = \"suspended\"\nstate_reason = \"spam\"\n\
             [[account]]\nname = \"printer\"\nPASSWORD\n\
             [[account]]\nname = \"bob@proseware.test\"\nPASSWORD\n\
             [[account]]\nname = \"old@proseware.test\"\nPASSWORD\nstate = \"disabled\"\n",
        );
        let standing = Standing::default();
        let why = "wrote to 500 new recipients".to_owned();
        standing.suspensions.suspend(Suspension {
            login: "bob@proseware.test".to_owned(),
            since: 1,
            why,
            state: LoginState::Suspended,
            by_hand: false,
        });
        let expected = [
            "login alice@proseware.test: it is suspended: spam",
            "login printer: it may send as nobody: its name is no address, and it is granted none",
            "login bob@proseware.test: the server has suspended it: wrote to 500 new recipients",
            "login bob@proseware.test: there is no mailbox bob@proseware.test: answers and bounces are refused",
            "domain proseware.test: no login that can be used may send for it",
            "domain adatum.test: no login that can be used may send for it",
        ];
        assert_eq!(concerns(&config, standing), expected);
    }

    #[test]
    fn senders_that_nobody_reads_are_found() {
        let mut config = config(
            "[[account]]\nname = \"alice@proseware.test\"\nPASSWORD\nsend_as = [\"scan@proseware.test\", \"@adatum.test\"]\n",
        );
        config.relay = toml::from_str(
            "[[grants]]\nlabel = \"printer\"\nnetwork = \"192.0.2.40/32\"\nrate = \"100/h\"\nrecipients = [\"*\"]\n\
             senders = [\"scan@proseware.test\", \"alice@proseware.test\", \"x@adatum.test\", \"<>\"]\n",
        )
        .unwrap();
        let text = "there is no mailbox scan@proseware.test: answers and bounces are refused";
        let expected =
            ["login alice@proseware.test", "grant printer"].map(|place| format!("{place}: {text}"));
        assert_eq!(concerns(&config, Standing::default()), expected);
    }

    #[test]
    fn the_page_about_submission_leaves_no_sender_without_a_reader() {
        let page = include_str!("../../../../docs/submission.md");
        let text = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(config.relay.grants.len(), 1);
        let found = concerns(&config, Standing::default());
        assert!(!found.iter().any(|text| text.contains("mailbox")), "{found:?}");
    }

    #[test]
    fn who_may_send_as_anybody_is_pointed_out() {
        for (keys, is_concern) in [
            ("permission = \"any\"", true),
            ("send_as = [\"*\"]", true),
            ("permission = \"any\"\nany_if_spf = true", false),
            ("permission = \"local\"", false),
        ] {
            let config = config(&format!("[[account]]\nname = \"alice@proseware.test\"\nPASSWORD\n{keys}\n"));
            let concerns = concerns(&config, Standing::default());
            assert_eq!(
                concerns.iter().any(|text| text.contains("as anybody")),
                is_concern,
                "{keys}: {concerns:?}"
            );
        }
    }

    #[test]
    fn no_login_and_no_way_to_log_in_are_told_apart() {
        let without = config("");
        assert!(concerns(&without, Standing::default())[0].contains("there is no login"));
        let mut closed = config("[[account]]\nname = \"alice@proseware.test\"\nPASSWORD\n");
        closed.listeners.clear();
        assert!(concerns(&closed, Standing::default())[0].contains("no listener takes them"));
    }

    #[test]
    fn thousands_of_findings_are_cut() {
        let one = |at: usize| format!("[[account]]\nname = \"printer{at}\"\nPASSWORD\n");
        let config = config(&(0..1500).map(one).collect::<String>());
        let found = senders(&config, &Policy::new(&config), UNIX_EPOCH);
        assert!(found.len() < MOST_FINDINGS + MOST_LISTED + 10, "{}", found.len());
        assert!(found.iter().any(|finding| finding.text == "500 more findings"));
        assert!(found.iter().any(|f| f.weight == Weight::Note && f.text.starts_with("1400 more logins")));
    }
}
