//! Who may relay: list; temporary grants: give, take back, keep over a restart.

pub mod metrics;

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use ipnet::IpNet;
use postern_config::Config;
use postern_config::relay::{Recipients, Relay, Temporary, refused_for_a_while};
use postern_config::surroundings::Surroundings;
use postern_config::units::format_duration;
use postern_policy::Policy;
use postern_policy::remedies::Site;
use postern_policy::standing::Standing;
use postern_policy::standing::grants::{GrantError, TemporaryGrant};
use postern_runtime::StateFile;

use crate::Shared;
use crate::api::relay::{
    self as api, GrantRequest, Granted, RelayList, RevokeRequest, Revoked, RevokedGrant,
};
use crate::api::{AuditEvent, ProblemKind};
use crate::rights::Writer;
use crate::server::{Answer, App, Failure, Input, answer, failure};

pub use metrics::register;

/// Characters of a reason: it is in memory as long as the grant.
const MAX_REASON: usize = 200;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/relay", get(list))
        .route("/v1/relay/grant", post(grant))
        .route("/v1/relay/revoke", post(revoke))
}

/// Where temporary grants are kept over a restart.
#[derive(Debug)]
pub(crate) struct GrantsFile {
    file: StateFile,
    /// One change at a time, so that the last to write has seen all of them.
    changing: Mutex<()>,
}

fn grants_file(spool: &Path) -> StateFile {
    StateFile::new(spool, "grants.json")
}

/// Puts the temporary grants that were kept back into force, without those that have ended, and those that would not be given
/// any more: a container that moved may have another gateway. Blocking.
pub fn restore(spool: &Path, standing: &Standing, now: SystemTime) {
    restore_in(spool, standing, &Surroundings::look(), now);
}

fn restore_in(spool: &Path, standing: &Standing, surroundings: &Surroundings, now: SystemTime) {
    let kept: Vec<TemporaryGrant> = grants_file(spool).load().unwrap_or_default();
    let may_be_given = |grant: &TemporaryGrant| {
        let refused = refused_for_a_while(grant.network, surroundings, &[]);
        if let Some(why) = &refused {
            tracing::warn!(event = "grant-not-restored", network = %grant.network, "{why}");
        }
        refused.is_none()
    };
    let kept = kept.into_iter().filter(|grant| grant.left(now).is_some()).filter(may_be_given);
    standing.grants.restore(kept);
}

impl GrantsFile {
    pub(crate) fn new(spool: &Path) -> Self {
        Self { file: grants_file(spool), changing: Mutex::new(()) }
    }

    /// Gives a right, and keeps it: the answer is the one whose place it takes. Without the file, it is not given. Blocking.
    fn give(
        &self,
        standing: &Standing,
        grant: TemporaryGrant,
        most: usize,
    ) -> Result<Option<TemporaryGrant>, Failure> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (network, now) = (grant.network, SystemTime::now());
        let former = standing.grants.give(grant, most, now)?;
        if let Err(error) = self.file.save(&standing.grants.list(now)) {
            match former {
                Some(former) => standing.grants.put_back(former),
                None => drop(standing.grants.revoke(network)),
            }
            return Err(self.not_kept("nothing was granted", &error));
        }
        Ok(former)
    }

    /// Takes rights back. Blocking.
    fn revoke(&self, standing: &Standing, networks: &[IpNet]) -> Result<(), Failure> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        for network in networks {
            standing.grants.revoke(*network);
        }
        let saved = self.file.save(&standing.grants.list(SystemTime::now()));
        saved.map_err(|error| self.not_kept("they are revoked now, but come back with a restart", &error))
    }

    fn not_kept(&self, outcome: &str, error: &io::Error) -> Failure {
        let path = self.file.path().display();
        failure(ProblemKind::Store, format!("{outcome}: {path} cannot be written: {error}"))
    }
}

impl From<GrantError> for Failure {
    fn from(error: GrantError) -> Self {
        let kind = match error {
            GrantError::TooLarge(_) => ProblemKind::BadRequest,
            GrantError::TooMany(_) => ProblemKind::Conflict,
        };
        failure(kind, error.to_string())
    }
}

async fn list(State(shared): State<Shared>) -> Answer<RelayList> {
    let (config, policy) = (shared.config.load_full(), shared.policy.load_full());
    answer(relay_list(&config.relay, &policy.standing, SystemTime::now()))
}

fn relay_list(relay: &Relay, standing: &Standing, now: SystemTime) -> RelayList {
    let grant = |grant: &postern_config::relay::Grant| api::AddressGrant {
        label: grant.label.clone(),
        network: grant.network.to_string(),
        senders: grant.senders.clone(),
        recipients: grant.recipients.clone(),
        rate: grant.rate.to_string(),
        limit: grant.rate.count,
        used: standing.rates.used(&grant.label, grant.rate, now),
    };
    let trusted = relay.trusted_networks.iter().map(|trusted| api::TrustedNetwork {
        network: trusted.network.to_string(),
        label: trusted.label.clone(),
    });
    let certificates = relay.certificates.iter().map(|certificate| api::Certificate {
        label: certificate.label.clone(),
        sha256: certificate.fingerprint(),
        name: certificate.name.clone(),
    });
    let Temporary { enabled, max_ttl, max_grants } = relay.temporary;
    RelayList {
        trusted_networks: trusted.collect(),
        grants: relay.grants.iter().map(grant).collect(),
        hosts: relay.hosts.iter().map(|host| host_view(host, standing, now)).collect(),
        certificates: certificates.collect(),
        temporary: api::Temporary {
            enabled,
            max_ttl: max_ttl.as_secs(),
            max_grants,
            grants: standing.grants.list(now).iter().map(|grant| view(grant, now)).collect(),
        },
        relay_domains: relay.relay_domains.iter().map(relay_domain).collect(),
    }
}

fn host_view(host: &postern_config::relay::HostName, standing: &Standing, now: SystemTime) -> api::HostName {
    let known = standing.hosts.known(&host.name);
    let addresses = known.as_ref().map(|known| known.addresses.clone()).unwrap_or_default();
    api::HostName {
        name: host.name.to_string(),
        label: host.label.clone(),
        counts: addresses.first().is_some_and(|address| standing.hosts.has(&host.name, *address, now)),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        at: known.as_ref().and_then(|known| known.at).map(seconds),
        problem: known.and_then(|known| known.problem),
    }
}

fn relay_domain(domain: &postern_config::relay::RelayDomain) -> api::RelayDomain {
    let (recipients, listed) = match &domain.recipients {
        Recipients::Any => ("any", None),
        Recipients::Listed(list) => ("list", Some(list.len())),
        Recipients::CallForward => ("call-forward", None),
    };
    api::RelayDomain { name: domain.name.to_string(), recipients: recipients.to_owned(), listed }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn view(grant: &TemporaryGrant, now: SystemTime) -> api::TemporaryGrant {
    api::TemporaryGrant {
        network: grant.network.to_string(),
        until: grant.until / 1000,
        left: grant.left(now).unwrap_or_default().as_secs_f64().ceil() as u64,
        reason: grant.why.clone(),
    }
}

async fn grant(
    State(app): State<App>,
    Writer(peer): Writer,
    Input(request): Input<GrantRequest>,
) -> Answer<Granted> {
    if request.dry_run {
        let (config, policy) = (app.shared.config.load_full(), app.shared.policy.load_full());
        return answer(imagined(&request, &config, &policy.standing, SystemTime::now())?);
    }
    let granted = give(&app, &request).await;
    let event = AuditEvent {
        object: Some(match &granted {
            Ok(granted) => granted.grant.network.clone(),
            Err(_) => request.network.chars().take(MAX_REASON).collect(),
        }),
        detail: Some(format!("for {}", format_duration(Duration::from_secs(request.ttl)))),
        reason: Some(request.reason.chars().take(MAX_REASON).collect()),
        changed: usize::from(granted.is_ok()),
        error: granted.as_ref().err().map(|failure| failure.1.error.clone()),
        ..AuditEvent::new("relay-grant", peer.uid)
    };
    app.audit.note(event).await;
    answer(granted?)
}

async fn give(app: &App, request: &GrantRequest) -> Result<Granted, Failure> {
    let config = app.shared.config.load_full();
    let (now, most) = (SystemTime::now(), config.relay.temporary.max_grants);
    let new = new_grant(request, &config, &Surroundings::look(), now)?;
    let (network, standing) = (new.network, app.shared.policy.load().standing.clone());
    let (file, changed) = (app.grants.clone(), standing.clone());
    let former = blocking(move || file.give(&changed, new, most)).await??;
    // What is told is what is in force.
    let given = standing.grants.list(now).into_iter().find(|grant| grant.network == network);
    let revoked = || failure(ProblemKind::Conflict, format!("{network} was revoked at the same moment"));
    let grant = given.ok_or_else(revoked)?;
    let former = former.filter(|former| former.left(now).is_some());
    Ok(Granted {
        dry_run: false,
        grant: view(&grant, now),
        replaces: former.map(|former| view(&former, now)),
    })
}

/// What would be granted.
fn imagined(
    request: &GrantRequest,
    config: &Config,
    standing: &Standing,
    now: SystemTime,
) -> Result<Granted, Failure> {
    let grant = new_grant(request, config, &Surroundings::look(), now)?;
    standing.grants.check(grant.network, config.relay.temporary.max_grants, now)?;
    let former = standing.grants.list(now).into_iter().find(|former| former.network == grant.network);
    Ok(Granted { dry_run: true, grant: view(&grant, now), replaces: former.map(|former| view(&former, now)) })
}

/// The right that is asked for.
fn new_grant(
    request: &GrantRequest,
    config: &Config,
    surroundings: &Surroundings,
    now: SystemTime,
) -> Result<TemporaryGrant, Failure> {
    let temporary = &config.relay.temporary;
    let bad = |text: String| Err(failure(ProblemKind::BadRequest, text));
    if !temporary.enabled {
        return Err(failure(ProblemKind::Conflict, Site::of(config).switch_on_temporary_grants()));
    }
    let network = network(&request.network)?;
    if let Some(why) = refused_for_a_while(network, surroundings, &config.policy.public_addresses) {
        return bad(format!("{network} gets no temporary grant: {why}"));
    }
    let ttl = Duration::from_secs(request.ttl);
    if ttl.is_zero() {
        return bad("for how long? A grant of 0s would be over at once".to_owned());
    }
    if ttl > temporary.max_ttl {
        let (asked, most) = (format_duration(ttl), format_duration(temporary.max_ttl));
        return bad(format!("{asked} is longer than relay.temporary.max_ttl allows: {most} at most"));
    }
    let why = request.reason.trim();
    if why.is_empty() {
        return bad("why? Give a reason, such as \"pop login alice\"".to_owned());
    }
    if why.chars().count() > MAX_REASON || why.contains(char::is_control) {
        return bad(format!("a reason is one line of at most {MAX_REASON} characters"));
    }
    let until = (now + ttl).duration_since(UNIX_EPOCH).unwrap_or_default();
    let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
    Ok(TemporaryGrant { network, until, why: why.to_owned() })
}

/// Reads an address or a network. What could be meant in two ways is refused with both.
fn network(text: &str) -> Result<IpNet, Failure> {
    let bad = |text: String| failure(ProblemKind::BadRequest, text);
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    let Ok(network) = text.parse::<IpNet>() else {
        let shown: String = text.chars().take(MAX_REASON).collect();
        return Err(bad(format!(
            "{shown:?} is neither an address nor a network: write 203.0.113.7, 203.0.113.0/28 or 2001:db8::/64"
        )));
    };
    without_host_bits(network)?;
    if let IpNet::V6(v6) = network
        && v6.addr().to_ipv4_mapped().is_some()
    {
        return Err(bad(format!("{network} is an IPv4 network in IPv6 form: write it as 203.0.113.0/28")));
    }
    Ok(network)
}

/// `203.0.113.7/8` is most likely one address.
pub(crate) fn without_host_bits(network: IpNet) -> Result<IpNet, Failure> {
    let (whole, single) = (network.trunc(), network.addr());
    if whole == network {
        return Ok(network);
    }
    let problem =
        format!("{network} has host bits set: write {whole} for the network or {single} for the one address");
    Err(failure(ProblemKind::BadRequest, problem))
}

async fn revoke(
    State(app): State<App>,
    Writer(peer): Writer,
    Input(request): Input<RevokeRequest>,
) -> Answer<Revoked> {
    let policy = app.shared.policy.load_full();
    let now = SystemTime::now();
    let found = found(&request, &policy.standing, now)?;
    if !request.dry_run {
        let (file, standing) = (app.grants.clone(), policy.standing.clone());
        let networks: Vec<IpNet> = found.iter().map(|grant| grant.network).collect();
        let revoked = blocking(move || file.revoke(&standing, &networks)).await?;
        for grant in &found {
            let event = AuditEvent {
                object: Some(grant.network.to_string()),
                detail: Some(format!("{} s before its end: {}", view(grant, now).left, grant.why)),
                reason: request.reason.clone(),
                changed: 1,
                error: revoked.as_ref().err().map(|failure| failure.1.error.clone()),
                ..AuditEvent::new("relay-revoke", peer.uid)
            };
            app.audit.note(event).await;
        }
        revoked?;
    }
    let all: Vec<IpNet> = found.iter().map(|grant| grant.network).collect();
    let revoked = |grant: &TemporaryGrant| RevokedGrant {
        grant: view(grant, now),
        still: still_allowed(grant.network, &all, &policy, now),
    };
    answer(Revoked { dry_run: request.dry_run, grants: found.iter().map(revoked).collect() })
}

/// The rights that are to be taken back: all that are named must be there.
fn found(
    request: &RevokeRequest,
    standing: &Standing,
    now: SystemTime,
) -> Result<Vec<TemporaryGrant>, Failure> {
    let all = standing.grants.list(now);
    match (request.networks.is_empty(), request.all) {
        (true, true) => return Ok(all),
        (false, false) => {}
        _ => return Err(failure(ProblemKind::BadRequest, "which grants? Name their networks, or `all`")),
    }
    let mut found: Vec<TemporaryGrant> = Vec::new();
    for text in &request.networks {
        let network = network(text)?;
        let Some(grant) = all.iter().find(|grant| grant.network == network) else {
            let wider = all.iter().find(|grant| grant.network.contains(&network));
            let hint = match wider {
                Some(wider) => format!("it is part of {}, which has one: revoke that", wider.network),
                None => "`posternctl relay list` shows those in force".to_owned(),
            };
            let text = format!("{network} has no temporary grant now; nothing was revoked: {hint}");
            return Err(failure(ProblemKind::NotFound, text));
        };
        if !found.contains(grant) {
            found.push(grant.clone());
        }
    }
    Ok(found)
}

/// What else lets the network relay, beside the grants that are taken back.
fn still_allowed(network: IpNet, revoked: &[IpNet], policy: &Policy, now: SystemTime) -> Option<String> {
    if let Some(trusted) = policy.relay.trusted_network(network.addr()) {
        return Some(format!("the trusted network {} ({})", trusted.network, trusted.label));
    }
    let others = policy.standing.grants.list(now);
    let other = others
        .iter()
        .find(|other| !revoked.contains(&other.network) && other.network.contains(&network.addr()))?;
    Some(format!("the temporary grant for {} ({})", other.network, other.why))
}

/// The file is written and synced.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| failure(ProblemKind::Store, format!("the change was not made: {error}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn config() -> Config {
        toml::from_str(
            "hostname = \"mail.proseware.test\"\n[policy]\npublic_addresses = [\"198.51.100.25\"]\n\
             [relay.temporary]\nenabled = true\nmax_ttl = \"1h\"\nmax_grants = 2\n",
        )
        .unwrap()
    }

    /// A container.
    fn surroundings() -> Surroundings {
        let address = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
        Surroundings { container: true, gateways: address("172.17.0.1"), own: address("172.17.0.2") }
    }

    fn request(network: &str, ttl: u64) -> GrantRequest {
        let (network, reason) = (network.to_owned(), "pop login alice".to_owned());
        GrantRequest { network, ttl, reason, dry_run: false }
    }

    fn refusal(request: &GrantRequest, config: &Config) -> String {
        new_grant(request, config, &surroundings(), UNIX_EPOCH).unwrap_err().1.error
    }

    fn grant(network: &str) -> TemporaryGrant {
        new_grant(&request(network, 60), &config(), &surroundings(), SystemTime::now()).unwrap()
    }

    #[test]
    fn an_address_is_a_network_of_one() {
        for (text, network) in [
            ("203.0.113.7", "203.0.113.7/32"),
            (" ::ffff:203.0.113.7 ", "203.0.113.7/32"),
            ("2001:db8::7", "2001:db8::7/128"),
            ("203.0.113.0/28", "203.0.113.0/28"),
        ] {
            assert_eq!(super::network(text).unwrap().to_string(), network);
        }
    }

    #[test]
    fn what_cannot_be_granted_says_what_would_be_right() {
        let refused = |network: &str, ttl: u64| refusal(&request(network, ttl), &config());
        let two_ways = refused("192.0.2.1/24", 60);
        assert!(two_ways.contains("192.0.2.0/24") && two_ways.contains("192.0.2.1 for"), "{two_ways}");
        assert!(refused("alice", 60).contains("neither an address nor a network"));
        assert!(refused("::ffff:203.0.113.0/124", 60).contains("IPv6 form"));
        let long = refused("203.0.113.7", 7200);
        assert!(long.contains("2h is longer") && long.contains("1h at most"), "{long}");
        assert!(refused("203.0.113.7", u64::MAX).contains("1h at most"));
        assert!(refused("203.0.113.7", 0).contains("for how long"));
        let off: Config = toml::from_str("hostname = \"mail.proseware.test\"").unwrap();
        let off = refusal(&request("203.0.113.7", 60), &off);
        assert!(off.contains("[relay.temporary]\nenabled = true\nthen posternctl reload"), "{off}");
        for reason in ["", "  ", "two\nlines", &"x".repeat(201)] {
            let request = GrantRequest { reason: reason.to_owned(), ..request("203.0.113.7", 60) };
            assert!(refusal(&request, &config()).contains("reason"), "{reason:?}");
        }
    }

    #[test]
    fn what_others_may_seem_to_come_from_is_not_granted() {
        for (network, why) in [
            ("172.17.0.1", "172.17.0.1/32 gets no temporary grant: that would relay for the default gateway"),
            ("::ffff:172.17.0.1", "the default gateway"),
            ("172.17.0.0/28", "the default gateway 172.17.0.1"),
            ("172.17.0.2", "an address of this server itself"),
            ("198.51.100.25", "an address of this server itself"),
            ("0.0.0.0", "no address of a client"),
        ] {
            let said = refusal(&request(network, 60), &config());
            assert!(said.contains(why), "{network}: {said}");
        }
    }

    #[test]
    fn what_would_not_be_granted_any_more_is_not_restored() {
        let spool = tempfile::tempdir().unwrap();
        let (file, standing, now) = (GrantsFile::new(spool.path()), Standing::default(), SystemTime::now());
        file.give(&standing, grant("203.0.113.7"), 10).unwrap();
        file.give(&standing, grant("172.18.0.1"), 10).unwrap();
        let moved = Surroundings { gateways: vec!["172.18.0.1".parse().unwrap()], ..surroundings() };
        let after = Standing::default();
        restore_in(spool.path(), &after, &moved, now);
        let kept: Vec<String> =
            after.grants.list(now).iter().map(|grant| grant.network.to_string()).collect();
        assert_eq!(kept, ["203.0.113.7/32"]);
    }

    #[test]
    fn what_cannot_be_kept_is_not_granted() {
        let spool = tempfile::tempdir().unwrap();
        std::fs::write(spool.path().join("policy"), "in the way").unwrap();
        let (file, standing) = (GrantsFile::new(spool.path()), Standing::default());
        let failed = file.give(&standing, grant("203.0.113.7"), 10).unwrap_err();
        assert_eq!(failed.1.kind, ProblemKind::Store);
        assert!(standing.grants.list(SystemTime::now()).is_empty());
        // One that is taken back is taken back all the same.
        standing.grants.give(grant("203.0.113.7"), 10, SystemTime::now()).unwrap();
        let failed = file.revoke(&standing, &["203.0.113.7/32".parse().unwrap()]).unwrap_err();
        assert!(failed.1.error.contains("come back with a restart"));
        assert!(standing.grants.list(SystemTime::now()).is_empty());
    }

    #[test]
    fn grants_are_kept_over_a_restart_until_they_end() {
        let spool = tempfile::tempdir().unwrap();
        let (file, standing, now) = (GrantsFile::new(spool.path()), Standing::default(), SystemTime::now());
        file.give(&standing, grant("203.0.113.7"), 10).unwrap();
        file.give(&standing, grant("203.0.113.8"), 10).unwrap();
        file.revoke(&standing, &["203.0.113.8/32".parse().unwrap()]).unwrap();
        let after = Standing::default();
        restore(spool.path(), &after, now);
        assert_eq!(after.grants.list(now), standing.grants.list(now));
        assert_eq!(after.grants.list(now).len(), 1);
        restore(spool.path(), &after, now + Duration::from_secs(61));
        assert_eq!(after.grants.in_force(now), 0);
    }

    #[test]
    fn only_what_was_granted_can_be_revoked() {
        let (standing, now) = (Standing::default(), SystemTime::now());
        standing.grants.give(grant("203.0.113.0/28"), 10, now).unwrap();
        let revoke = |networks: &[&str], all| {
            let networks = networks.iter().map(ToString::to_string).collect();
            found(&RevokeRequest { networks, all, ..RevokeRequest::default() }, &standing, now)
        };
        assert_eq!(revoke(&["203.0.113.0/28", "203.0.113.0/28"], false).unwrap().len(), 1);
        assert_eq!(revoke(&[], true).unwrap().len(), 1);
        assert!(revoke(&["203.0.113.7"], false).unwrap_err().1.error.contains("part of 203.0.113.0/28"));
        assert_eq!(revoke(&["198.51.100.9"], false).unwrap_err().1.kind, ProblemKind::NotFound);
        for (networks, all) in [(&[][..], false), (&["203.0.113.0/28"][..], true)] {
            assert_eq!(revoke(networks, all).unwrap_err().1.kind, ProblemKind::BadRequest);
        }
    }

    #[test]
    fn all_ways_are_listed_with_what_was_used() {
        let relay: Relay = toml::from_str(
            r#"
            trusted_networks = [{ network = "192.0.2.0/24", label = "office" }]
            hosts = [{ name = "branch.proseware.test", label = "branch" }]
            certificates = [{ name = "gw.proseware.test", label = "gateway" }]
            relay_domains = [{ name = "a.test" }, { name = "b.test", recipients = ["x"] }, { name = "c.test", recipients = "call-forward" }]
            [[grants]]
            label = "scanner"
            network = "192.0.2.40/32"
            senders = ["scanner@proseware.test"]
            recipients = ["*"]
            rate = "2/h"
            "#,
        )
        .unwrap();
        let (standing, now) = (Standing::default(), SystemTime::now());
        standing.rates.take("scanner", relay.grants[0].rate, now);
        let name = &relay.hosts[0].name;
        standing.hosts.learn(name, vec!["203.0.113.7".parse().unwrap()], now);
        standing.hosts.not_told(name, "SERVFAIL".to_owned(), now);
        let list = relay_list(&relay, &standing, now);
        assert_eq!((list.grants[0].used, list.grants[0].limit), (1, 2));
        let host = &list.hosts[0];
        assert_eq!((host.addresses.len(), host.problem.as_deref(), host.counts), (1, Some("SERVFAIL"), true));
        assert_eq!(host.at, Some(seconds(now)));
        let recipients: Vec<&str> =
            list.relay_domains.iter().map(|domain| domain.recipients.as_str()).collect();
        assert_eq!(recipients, ["any", "list", "call-forward"]);
        assert_eq!((list.trusted_networks.len(), list.certificates.len()), (1, 1));
    }
}
