//! `relay`: who may relay; rights for a while.

use std::io::{BufRead, IsTerminal};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use postern_admin::api::relay::{
    AddressGrant, Certificate, GrantRequest, Granted, HostName, RelayDomain, RelayList, RevokeRequest,
    Revoked, RevokedGrant, Temporary, TemporaryGrant,
};

use crate::Session;
use crate::failure::{Exit, Failure};
use crate::filter;
use crate::output::{self, Look};

const EXAMPLES: &str = "\
Examples:
  posternctl relay grant 203.0.113.7 --ttl 30m --reason 'pop login alice'
  posternctl relay grant 2001:db8:7::/64 --ttl 2h --reason 'fair stand, ticket 4711'
  posternctl relay grant 203.0.113.7 --ttl 30m --reason test --dry-run
  posternctl relay revoke 203.0.113.7
  posternctl relay list";

/// What can be asked about relaying.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List every right to relay without a login, what was used of it, and the relay domains.
    List,
    /// Let an address or a small network relay for a while. Needs relay.temporary.enabled.
    #[command(after_help = EXAMPLES)]
    Grant(GrantOptions),
    /// Take temporary grants back at once.
    #[command(after_help = EXAMPLES)]
    Revoke(RevokeOptions),
}

/// Options of `grant`.
#[derive(Debug, Args)]
pub struct GrantOptions {
    /// The address, or the network: at most a /24 (IPv4) or /48 (IPv6).
    #[arg(value_name = "IP|CIDR")]
    network: String,
    /// For how long, such as `30m`; relay.temporary.max_ttl at most.
    #[arg(long, value_name = "DURATION", value_parser = filter::seconds)]
    ttl: u64,
    /// Why: in the list, in the log, in explanations.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Only say whether it could be granted.
    #[arg(long)]
    dry_run: bool,
}

/// Options of `revoke`.
#[derive(Debug, Args)]
pub struct RevokeOptions {
    /// The addresses or networks, as they were granted.
    #[arg(value_name = "IP|CIDR", required_unless_present = "all", conflicts_with = "all")]
    networks: Vec<String>,
    /// All temporary grants.
    #[arg(long)]
    all: bool,
    /// With --all: do not ask; needed by scripts when there is more than one.
    #[arg(long, short)]
    yes: bool,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only say which.
    #[arg(long)]
    dry_run: bool,
}

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        match self {
            Self::List => list(session).await,
            Self::Grant(options) => grant(session, options).await,
            Self::Revoke(options) => revoke(session, options).await,
        }
    }
}

async fn list(session: &mut Session) -> Result<Exit, Failure> {
    let list: RelayList = session.client()?.get("/v1/relay").await?;
    let now = session.now;
    session.out.answer(&list, |list, look| list_text(list, now, look))?;
    Ok(Exit::Done)
}

async fn grant(session: &mut Session, options: GrantOptions) -> Result<Exit, Failure> {
    let GrantOptions { network, ttl, reason, dry_run } = options;
    let request = GrantRequest { network, ttl, reason, dry_run };
    let granted: Granted = session.client()?.post("/v1/relay/grant", &request).await?;
    session.out.answer(&granted, |granted, _| granted_text(granted))?;
    Ok(Exit::Done)
}

async fn revoke(session: &mut Session, options: RevokeOptions) -> Result<Exit, Failure> {
    let client = session.client()?;
    let RevokeOptions { networks, all, yes, reason, dry_run } = options;
    let request = RevokeRequest { networks, all, reason, dry_run };
    if all && !yes && !dry_run {
        let dry = RevokeRequest { dry_run: true, ..request.clone() };
        let found: Revoked = client.post("/v1/relay/revoke", &dry).await?;
        if !all_agreed(session, found.grants.len())? {
            return Err(Failure::Finding("nothing was changed".to_owned()));
        }
    }
    let revoked: Revoked = client.post("/v1/relay/revoke", &request).await?;
    session.out.answer(&revoked, |revoked, _| revoked_text(revoked))?;
    // That there is nothing to revoke is worth knowing for a script.
    Ok(if revoked.grants.is_empty() { Exit::Finding } else { Exit::Done })
}

fn all_agreed(session: &Session, grants: usize) -> Result<bool, Failure> {
    if grants <= 1 {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::Usage(format!(
            "there are {grants} grants: without a terminal to ask on, say --yes"
        )));
    }
    session.note(&format!("revoke all {grants}? [y/N]"));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn list_text(list: &RelayList, now: SystemTime, look: Look) -> String {
    let trusted =
        list.trusted_networks.iter().map(|trusted| vec![trusted.network.clone(), trusted.label.clone()]);
    let sections = [
        section("trusted networks", &["NETWORK", "LABEL"], trusted.collect(), look),
        section(
            "address grants",
            &["LABEL", "NETWORK", "SENDERS", "RECIPIENTS", "USED"],
            list.grants.iter().map(grant_row).collect(),
            look,
        ),
        section(
            "host names",
            &["NAME", "LABEL", "ADDRESSES", "LOOKED UP", "STATE"],
            list.hosts.iter().map(|host| host_row(host, now)).collect(),
            look,
        ),
        section(
            "client certificates",
            &["LABEL", "CERTIFICATE"],
            list.certificates.iter().map(certificate_row).collect(),
            look,
        ),
        temporary_text(&list.temporary, look),
        section(
            "relay domains",
            &["DOMAIN", "RECIPIENTS"],
            list.relay_domains.iter().map(domain_row).collect(),
            look,
        ),
    ];
    sections.join("\n")
}

fn section(title: &str, header: &[&str], rows: Vec<Vec<String>>, look: Look) -> String {
    match rows.is_empty() {
        true => format!("{title}: none\n"),
        false => format!("{title}\n{}", output::table(header, rows, look)),
    }
}

fn grant_row(grant: &AddressGrant) -> Vec<String> {
    vec![
        grant.label.clone(),
        grant.network.clone(),
        grant.senders.join(" "),
        grant.recipients.join(" "),
        format!("{} of {}", grant.used, grant.rate),
    ]
}

fn host_row(host: &HostName, now: SystemTime) -> Vec<String> {
    let addresses = match host.addresses.is_empty() {
        true => "-".to_owned(),
        false => host.addresses.join(" "),
    };
    let state = match (&host.problem, host.addresses.is_empty(), host.counts) {
        (Some(problem), false, true) => format!("counts, though DNS does not answer: {problem}"),
        (Some(problem), ..) => format!("does not count: {problem}"),
        (None, true, _) if host.at.is_some() => "has no address".to_owned(),
        (None, true, _) => "not looked up yet".to_owned(),
        (None, false, _) => "ok".to_owned(),
    };
    vec![
        host.name.clone(),
        host.label.clone(),
        addresses,
        host.at.map_or_else(|| "never".to_owned(), |at| format!("{} ago", output::age(at, now))),
        state,
    ]
}

fn certificate_row(certificate: &Certificate) -> Vec<String> {
    let what = match (&certificate.sha256, &certificate.name) {
        (Some(sha256), _) => format!("sha256 {sha256}"),
        (None, Some(name)) => format!("name {name}"),
        (None, None) => "-".to_owned(),
    };
    vec![certificate.label.clone(), what]
}

fn temporary_text(temporary: &Temporary, look: Look) -> String {
    let title = match temporary.enabled {
        true => "temporary grants".to_owned(),
        false => "temporary grants (switched off: they do not count; see relay.temporary.enabled)".to_owned(),
    };
    let row = |grant: &TemporaryGrant| vec![grant.network.clone(), left(grant), grant.reason.clone()];
    section(&title, &["NETWORK", "LEFT", "REASON"], temporary.grants.iter().map(row).collect(), look)
}

fn domain_row(domain: &RelayDomain) -> Vec<String> {
    let recipients = match domain.listed {
        Some(count) => format!("list of {count}"),
        None => domain.recipients.clone(),
    };
    vec![domain.name.clone(), recipients]
}

fn left(grant: &TemporaryGrant) -> String {
    output::duration(Duration::from_secs(grant.left))
}

fn granted_text(granted: &Granted) -> String {
    let Granted { dry_run, grant, replaces } = granted;
    let may = if *dry_run { "could relay" } else { "may relay" };
    let until = UNIX_EPOCH.checked_add(Duration::from_secs(grant.until)).unwrap_or(UNIX_EPOCH);
    let replaces = replaces
        .as_ref()
        .map(|former| format!(", in place of {} left ({})", left(former), output::clean(&former.reason)));
    format!(
        "{} {may} for {}, until {} ({}){}\n",
        grant.network,
        left(grant),
        postern_smtp::date::rfc3339(until),
        output::clean(&grant.reason),
        replaces.unwrap_or_default()
    )
}

fn revoked_text(revoked: &Revoked) -> String {
    if revoked.grants.is_empty() {
        return "no temporary grant is in force\n".to_owned();
    }
    let line = |revoked_grant: &RevokedGrant| {
        let RevokedGrant { grant, still } = revoked_grant;
        let verb = if revoked.dry_run { "would be revoked" } else { "revoked" };
        let still = still.as_ref().map(|still| format!("; it may relay all the same by {still}"));
        format!(
            "{} {verb}, {} before its end ({}){}\n",
            grant.network,
            left(grant),
            output::clean(&grant.reason),
            output::clean(&still.unwrap_or_default())
        )
    };
    revoked.grants.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use postern_admin::api::relay::TrustedNetwork;

    use super::*;

    fn grant() -> TemporaryGrant {
        TemporaryGrant {
            network: "203.0.113.7/32".to_owned(),
            until: 1_795_286_125,
            left: 1800,
            reason: "pop login alice".to_owned(),
        }
    }

    #[test]
    fn every_way_has_its_section() {
        let text = list_text(&RelayList::default(), UNIX_EPOCH, Look::PLAIN);
        assert_eq!(text.matches(": none\n").count(), 6, "{text}");
        let list = RelayList {
            trusted_networks: vec![TrustedNetwork {
                network: "192.0.2.0/24".to_owned(),
                label: "office".to_owned(),
            }],
            hosts: vec![HostName {
                name: "branch.proseware.test".to_owned(),
                label: "branch".to_owned(),
                addresses: vec!["203.0.113.9".to_owned()],
                at: Some(0),
                problem: Some("SERVFAIL".to_owned()),
                counts: true,
            }],
            temporary: Temporary { enabled: false, grants: vec![grant()], ..Temporary::default() },
            ..RelayList::default()
        };
        let text = list_text(&list, UNIX_EPOCH + Duration::from_secs(90), Look::PLAIN);
        for line in [
            "192.0.2.0/24  office",
            "branch.proseware.test  branch  203.0.113.9  1m30s ago  counts, though DNS does not answer: SERVFAIL",
            "temporary grants (switched off",
            "203.0.113.7/32  30m   pop login alice",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_grant_is_told_with_its_end_and_what_it_replaces() {
        let granted = Granted { dry_run: false, grant: grant(), replaces: None };
        assert_eq!(
            granted_text(&granted),
            "203.0.113.7/32 may relay for 30m, until 2026-11-21T18:35:25Z (pop login alice)\n"
        );
        let former = TemporaryGrant { left: 60, ..grant() };
        let again = granted_text(&Granted { replaces: Some(former), dry_run: true, ..granted });
        assert!(again.contains("could relay") && again.contains("in place of 1m left"), "{again}");
    }

    #[test]
    fn a_grant_that_is_revoked_in_vain_says_so() {
        let still = Some("the trusted network 203.0.113.0/24 (office)".to_owned());
        let revoked = Revoked { dry_run: false, grants: vec![RevokedGrant { grant: grant(), still }] };
        let text = revoked_text(&revoked);
        assert!(text.contains("revoked, 30m before its end"), "{text}");
        assert!(text.contains("all the same by the trusted network"), "{text}");
    }
}
