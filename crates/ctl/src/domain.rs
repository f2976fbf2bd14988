//! `domain`: is the DNS of the domains that mail is sent from in order, and which records does it need?

use std::fmt::Write as _;
use std::time::SystemTime;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use postern_admin::api::domains::{
    DomainList, DomainReport, DomainView, Finding, Outcome, VerifyDomains, Weight,
};
use postern_config::{Config, RequireVerified};
use postern_outbound::domains::{check, keys, records};
use postern_policy::verification::Cause;
use postern_smtp::Domain;
use serde::Serialize;

use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output::{self, Look};

const EXAMPLES: &str = "\
Examples:
  posternctl domain list
  posternctl domain verify proseware.test
  posternctl domain verify --all
  posternctl domain records proseware.test --format zone
  posternctl domain records proseware.test --cnames

Verification asks for SPF (or the alias of the return path), every DKIM key and DMARC. `verify` and `show` end with 0 if the \
DNS is in order, with 1 if not.";

/// What can be asked about domains.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Verb {
    /// List the domains of the configuration with the state of their DNS.
    List,
    /// Show what the last look-up of a domain found.
    Show {
        /// The domain.
        #[arg(value_name = "DOMAIN")]
        domain: Domain,
    },
    /// Look the DNS of domains up now.
    #[command(after_help = EXAMPLES)]
    Verify(VerifyOptions),
    /// Print the DNS records that a domain needs. Reads the configuration and the DKIM keys, and works without the daemon.
    #[command(after_help = EXAMPLES)]
    Records(RecordsOptions),
}

/// Which domains are looked up, and by whom.
#[derive(Debug, Args)]
pub struct VerifyOptions {
    /// The domains.
    #[arg(value_name = "DOMAIN", required_unless_present = "all", conflicts_with = "all")]
    domains: Vec<Domain>,
    /// All domains of the configuration.
    #[arg(long)]
    all: bool,
    /// Look up from here, with the name servers of the configuration file; the daemon is not asked, and its state of the
    /// domains stays what it is.
    #[arg(long)]
    offline: bool,
}

/// Which records are printed, and how.
#[derive(Debug, Args)]
pub struct RecordsOptions {
    /// The domain.
    #[arg(value_name = "DOMAIN")]
    domain: Domain,
    /// Aliases to names below the host name of this server, and what is to be published behind them, instead of the records
    /// themselves: for whoever runs the DNS of a customer and wants to do so once.
    #[arg(long)]
    cnames: bool,
    /// How they are printed: for people, as lines of a zone file, or as JSON.
    #[arg(long, default_value = "table", value_parser = PossibleValuesParser::new(["table", "zone", "json"]))]
    format: String,
}

/// The answer to `records`.
#[derive(Debug, Serialize)]
struct NeededRecords {
    domain: String,
    records: Vec<records::Needed>,
}

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let now = session.now;
        match self {
            Self::List => {
                let list: DomainList = session.client()?.get("/v1/domains").await?;
                session.out.answer(&list, |list, look| list_text(list, now, look))?;
                Ok(Exit::Done)
            }
            Self::Show { domain } => {
                let mut list: DomainList = session.client()?.get("/v1/domains").await?;
                list.domains.retain(|view| view.name == domain.as_str());
                if list.domains.is_empty() {
                    return Err(no_domain(&domain));
                }
                session.out.answer(&list, |list, look| details(list, now, look))?;
                Ok(exit(&list))
            }
            Self::Verify(options) => {
                let list = match options.offline {
                    true => look_up(&options, session).await?,
                    false => {
                        let domains = options.domains.iter().map(Domain::to_string).collect();
                        let request = VerifyDomains { domains, all: options.all };
                        session.client()?.post("/v1/domains/verify", &request).await?
                    }
                };
                session.out.answer(&list, |list, look| details(list, now, look))?;
                Ok(exit(&list))
            }
            Self::Records(options) => print_records(&options, session),
        }
    }
}

fn no_domain(domain: &Domain) -> Failure {
    Failure::Finding(format!(
        "there is no [[domain]] {domain} in the configuration: see `posternctl domain list`"
    ))
}

/// In order, as the last look-up found it.
fn exit(list: &DomainList) -> Exit {
    match list.domains.iter().all(|view| view.report.outcome == Some(Outcome::InOrder)) {
        true => Exit::Done,
        false => Exit::Finding,
    }
}

/// Looks domains up without the daemon.
async fn look_up(options: &VerifyOptions, session: &Session) -> Result<DomainList, Failure> {
    let config = crate::config::load(&session.global.config)?.config;
    if let Some(unknown) =
        options.domains.iter().find(|name| config.domains.iter().all(|known| known.name != **name))
    {
        return Err(no_domain(unknown));
    }
    let dns = crate::config::resolver(&config)?;
    let mut domains = Vec::new();
    for domain in config.domains.iter().filter(|known| options.all || options.domains.contains(&known.name)) {
        let keys = keys::public_keys(domain).map_err(|error| unreadable_key(&error.to_string()))?;
        let found = check::look_up(&config, domain, &keys, &dns).await;
        let report =
            DomainReport::default().after(found, Cause::Operator, config.policy.verify_failures, session.now);
        domains.push(DomainView { name: domain.name.to_string(), missing: None, report });
    }
    Ok(DomainList { require_verified: config.policy.require_verified, domains })
}

fn unreadable_key(problem: &str) -> Failure {
    Failure::Finding(format!(
        "{problem}\n  The public half of a key is in its file: run this as a user who may read it."
    ))
}

fn print_records(options: &RecordsOptions, session: &mut Session) -> Result<Exit, Failure> {
    let config = crate::config::load(&session.global.config)?.config;
    let needed = needed(&config, options)?;
    if options.format == "json" {
        session.out.json = true;
    }
    session.out.answer(&needed, |needed, look| match options.format.as_str() {
        "zone" => zone_text(needed),
        _ => records_text(needed, look),
    })?;
    Ok(Exit::Done)
}

fn needed(config: &Config, options: &RecordsOptions) -> Result<NeededRecords, Failure> {
    let found = config.domains.iter().find(|domain| domain.name == options.domain);
    let domain = found.ok_or_else(|| no_domain(&options.domain))?;
    let keys = keys::public_keys(domain).map_err(|error| unreadable_key(&error.to_string()))?;
    let make = if options.cnames { records::cnames } else { records::records };
    let records = make(config, domain, &keys).map_err(|error| Failure::Finding(error.to_string()))?;
    Ok(NeededRecords { domain: domain.name.to_string(), records })
}

fn records_text(needed: &NeededRecords, look: Look) -> String {
    let mut text = format!("To be published in {}:\n", needed.domain);
    text += &record_table(needed.records.iter().filter(|record| !record.ours), look);
    if needed.records.iter().any(|record| record.ours) {
        text += "\nTo be published by this server's own domain, where those lead:\n";
        text += &record_table(needed.records.iter().filter(|record| record.ours), look);
    }
    text
}

fn record_table<'r>(records: impl Iterator<Item = &'r records::Needed>, look: Look) -> String {
    let row = |needed: &records::Needed| {
        let record = &needed.record;
        vec![
            needed.purpose.as_str().to_owned(),
            record.name.clone(),
            record.kind.clone(),
            record.value.clone(),
        ]
    };
    // A record that is cut at the edge of the terminal cannot be copied.
    output::table(&["FOR", "NAME", "TYPE", "VALUE"], records.map(row), Look { width: None, ..look })
}

fn zone_text(needed: &NeededRecords) -> String {
    let mut text = format!("; in {}\n", needed.domain);
    let lines = |text: &mut String, ours: bool| {
        for needed in needed.records.iter().filter(|needed| needed.ours == ours) {
            let _ = writeln!(text, "{}", needed.record.zone_line());
        }
    };
    lines(&mut text, false);
    if needed.records.iter().any(|needed| needed.ours) {
        text += "; where those lead: published by this server's own domain\n";
        lines(&mut text, true);
    }
    text
}

fn list_text(list: &DomainList, now: SystemTime, look: Look) -> String {
    if list.domains.is_empty() {
        return "no domains: add a [[domain]] to the configuration\n".to_owned();
    }
    let row = |view: &DomainView| {
        vec![
            view.name.clone(),
            view.report.state.as_str().to_owned(),
            looked_up(&view.report, now),
            view.missing.clone().unwrap_or_default(),
        ]
    };
    let mut text =
        output::table(&["DOMAIN", "STATE", "LOOKED UP", "MISSING"], list.domains.iter().map(row), look);
    let consequence = match list.require_verified {
        RequireVerified::Off => {
            "require_verified is off: domains are looked up when you ask, and nothing follows."
        }
        RequireVerified::Warn => {
            "require_verified is \"warn\": mail from domains that are not verified is taken."
        }
        RequireVerified::Enforce => {
            "require_verified is \"enforce\": mail from domains that are not verified is refused."
        }
    };
    let _ = writeln!(text, "\n{consequence}");
    text
}

fn looked_up(report: &DomainReport, now: SystemTime) -> String {
    report.checked.map_or_else(|| "never".to_owned(), |checked| output::past(checked, now))
}

fn details(list: &DomainList, now: SystemTime, look: Look) -> String {
    let texts: Vec<String> = list.domains.iter().map(|view| detail(view, now, look)).collect();
    texts.join("\n")
}

fn detail(view: &DomainView, now: SystemTime, look: Look) -> String {
    let report = &view.report;
    let verdict = match report.outcome {
        Some(Outcome::InOrder) => look.paint("ok"),
        Some(Outcome::Lacking) => look.paint("not ok"),
        Some(Outcome::Undecided) => "not known: DNS did not answer".into(),
        None => "never looked up".into(),
    };
    let mut text = format!("{}: {verdict}\n", output::clean(&view.name));
    let failures = (report.failures > 0).then(|| output::counted(report.failures as usize, "look-up"));
    text += &output::pairs(
        "  ",
        [
            ("state", Some(report.state.as_str().to_owned())),
            ("since", (report.since > 0).then(|| output::past(report.since, now))),
            ("looked up", report.checked.map(|checked| output::past(checked, now))),
            ("failing for", failures),
        ],
    );
    report.findings.iter().for_each(|finding| text += &finding_text(finding, look));
    text
}

fn finding_text(finding: &Finding, look: Look) -> String {
    let word = match finding.weight {
        Weight::Error => "missing",
        Weight::Note => "ok",
        other => other.as_str(),
    };
    let mut text = format!(
        "  {:8} {}: {}\n",
        look.paint(word),
        output::clean(&finding.subject),
        output::clean(&finding.text)
    );
    if let Some(record) = &finding.publish {
        let _ = writeln!(text, "           publish: {}", output::clean(&record.zone_line()));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::{Duration, UNIX_EPOCH};

    use postern_policy::verification::{DnsRecord, LookUp};

    use super::*;

    fn list(weight: Weight) -> DomainList {
        let mut found = LookUp::default();
        let publish =
            DnsRecord { name: "adatum.test.".into(), kind: "TXT".into(), value: "v=spf1 -all".into() };
        found.add(weight, "SPF", "there is no SPF record", Some(publish));
        let report =
            DomainReport::default().after(found, Cause::Timer, 3, UNIX_EPOCH + Duration::from_secs(1000));
        let missing = Some("SPF".to_owned());
        DomainList {
            require_verified: RequireVerified::Warn,
            domains: vec![DomainView { name: "adatum.test".to_owned(), missing, report }],
        }
    }

    #[test]
    fn what_is_missing_is_shown_with_what_to_publish() {
        let now = UNIX_EPOCH + Duration::from_secs(1060);
        let text = details(&list(Weight::Error), now, Look::PLAIN);
        let expected = "\
adatum.test: not ok
  state        pending
  looked up    1970-01-01T00:16:40Z (1m ago)
  failing for  1 look-up
  missing  SPF: there is no SPF record
           publish: adatum.test. IN TXT \"v=spf1 -all\"
";
        assert_eq!(text, expected);
        let table = list_text(&list(Weight::Error), now, Look::PLAIN);
        assert!(
            table.contains("adatum.test") && table.contains("pending") && table.contains("SPF"),
            "{table}"
        );
        assert!(table.contains("is taken"), "{table}");
    }

    #[test]
    fn only_what_is_in_order_ends_with_zero() {
        assert_eq!(exit(&list(Weight::Note)), Exit::Done);
        for weight in [Weight::Error, Weight::Trouble] {
            assert_eq!(exit(&list(weight)), Exit::Finding);
        }
        let never = DomainView { name: "x.test".into(), missing: None, report: DomainReport::default() };
        assert_eq!(exit(&DomainList { domains: vec![never], ..list(Weight::Note) }), Exit::Finding);
    }

    #[test]
    fn a_zone_file_tells_whose_record_is_whose() {
        let record = |name: &str, ours| records::Needed {
            purpose: records::Purpose::Spf,
            ours,
            record: DnsRecord { name: name.into(), kind: "TXT".into(), value: "v=spf1 -all".into() },
        };
        let needed = NeededRecords {
            domain: "adatum.test".into(),
            records: vec![record("adatum.test.", false), record("return.mail.proseware.test.", true)],
        };
        let expected = "\
; in adatum.test
adatum.test. IN TXT \"v=spf1 -all\"
; where those lead: published by this server's own domain
return.mail.proseware.test. IN TXT \"v=spf1 -all\"
";
        assert_eq!(zone_text(&needed), expected);
    }
}
