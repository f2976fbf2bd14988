//! `doctor`: the checklist to go through before asking somebody else, in this order.
//!
//! | step | what | module |
//! |---|---|---|
//! | `settings` | listeners, certificate, AUTH, the host name | `settings`, `certificate` |
//! | `senders` | who may send as whom | `postern_policy::checkup` |
//! | `dns` | SPF, DKIM, DMARC, MX, PTR | `postern_outbound::checkup` |
//! | `blocklists` | our own addresses on lists | the same |
//! | `relay` | is it an open relay? | [`relay`] |
//! | `reputation` | what others defer and refuse, and what they report | `reputation`, `reports` |
//! | `contact` | whom to ask, and with what | `contact`, `bundle` |
//!
//! Without a step, all of them: `checklist`. What only the daemon knows is asked over the control socket; where it does not
//! answer, `sources` does what the configuration allows. Nothing is changed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use postern_config::units::parse_duration;

use crate::Session;
use crate::failure::{Exit, Failure};

mod bundle;
mod certificate;
mod checklist;
mod client;
mod contact;
mod course;
mod own;
mod redact;
pub mod relay;
mod report;
mod reports;
mod reputation;
mod settings;
mod smuggling;
mod sources;
mod tar;
mod tricks;

use checklist::{Checklist, Step};

const EXAMPLES: &str = "\
Examples:
  posternctl doctor
  posternctl doctor --verbose
  posternctl doctor --json
  posternctl doctor dns
  posternctl doctor reputation --reports /var/spool/postern/mail/proseware.test/dmarc-reports
  posternctl doctor relay mail.proseware.test
  posternctl doctor bundle --message 01N2K3P4Q5R6S --output case.tar

Ends with 0 if all is well, with 1 if something was found, with 4 if the daemon does not answer: what can be looked at \
without it is looked at then. Notes are no findings. Nothing is changed.";

/// Which step; without one, all of them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Doctor {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    options: Options,
}

/// Options of the whole checklist.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Show what is in order, too.
    #[arg(long, short)]
    verbose: bool,
    /// The local address from which the relay step asks: one that is not trusted.
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
    /// How long a listener may take for each answer.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
    /// Where the reports of others stand, if not where the configuration says.
    #[arg(skip)]
    reports: Vec<PathBuf>,
}

/// Options of the step that reads reports.
#[derive(Debug, Clone, Args)]
pub(crate) struct Places {
    /// Read the complaints and DMARC reports here instead: a Maildir, another folder or a file. Can be given several times.
    #[arg(long, value_name = "PATH")]
    reports: Vec<PathBuf>,
}

/// Options of the step that talks to listeners.
#[derive(Debug, Clone, Args)]
pub(crate) struct Patience {
    /// How long a listener may take for each answer.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
}

/// The steps, and the bundle that the last one is about.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Step 1: do the listeners answer, is the certificate good, is AUTH offered where it should be, does the host name lead here?
    Settings(Patience),
    /// Step 2: which logins may send as what, which cannot be used, which domains have none?
    Senders,
    /// Step 3: SPF, DKIM, DMARC, return path and MX of each domain, and the names of the outbound addresses.
    Dns,
    /// Step 4: are the outbound addresses on the lists of outbound.blocklists?
    Blocklists,
    /// Step 5: try the known tricks to send mail through a server that should refuse them all.
    #[command(after_help = relay::EXAMPLES)]
    Relay(Box<relay::Options>),
    /// Step 6: what did others defer and refuse, what do they complain of, does our mail pass DMARC?
    Reputation(Places),
    /// Step 7: whom to ask about mail that does not arrive, and what to show them.
    Contact,
    /// Make a bundle for support: the bounce, what happened to the message, the configuration without secrets.
    #[command(after_help = bundle::EXAMPLES)]
    Bundle(bundle::Options),
}

impl Doctor {
    /// Makes the checks.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let options = &self.options;
        let one = |step| (vec![step], Options { verbose: true, ..options.clone() });
        let (steps, options) = match self.verb {
            Some(Verb::Relay(options)) => return options.run(session).await,
            Some(Verb::Bundle(options)) => return options.run(session).await,
            None => (Step::ALL.to_vec(), options.clone()),
            Some(Verb::Settings(Patience { timeout })) => {
                let (steps, options) = one(Step::Settings);
                (steps, Options { timeout, ..options })
            }
            Some(Verb::Senders) => one(Step::Senders),
            Some(Verb::Dns) => one(Step::Dns),
            Some(Verb::Blocklists) => one(Step::Blocklists),
            Some(Verb::Reputation(Places { reports })) => {
                let (steps, options) = one(Step::Reputation);
                (steps, Options { reports, ..options })
            }
            Some(Verb::Contact) => one(Step::Contact),
        };
        let checklist = Checklist::go_through(&steps, &options, session).await?;
        session.out.answer(&checklist, |checklist, look| checklist.text(look, options.verbose))?;
        Ok(checklist.exit())
    }
}
