//! May they? Facts in, verdict and reason out.
//!
//! | question | module |
//! |---|---|
//! | may this client send this message from here to there? | [`relay`] |
//! | may this login use this sender? | [`sender`] |
//! | what did DNS say about the sender's domain? | [`sender_domains`], [`owners_lock`] |
//! | who is behind a local address? | [`directory`] |
//! | what do logins use up, and are they in the right hands? | [`logins`] |
//! | is this the right password? | [`accounts`] |
//! | does the client know the password, without saying it? | [`scram`] |
//! | is the DNS of a domain of ours in order? | [`verification`] |
//! | what should an operator look at? | [`checkup`] |
//! | what holds beside the configuration, for now? | [`standing`] |
//! | which of many networks is it in? | [`networks`] |
//! | what must be asked for elsewhere first? | [`facts`] |
//! | why was this refused? | [`record`] |
//! | what would have allowed it? | [`remedies`] |
//! | what does this bounce mean? | [`bounce`] |
//!
//! Nothing here waits, logs or opens a socket: a decision is a function of values. The one exception beside the decisions is
//! [`record`], which has files of its own and a thread that writes them. The words of a refusal are
//! written by `postern-smtp-inbound`'s `replies.rs`; who is sent to is decided by `postern-outbound`'s `route.rs`.

pub mod accounts;
pub mod bounce;
pub mod checkup;
pub mod directory;
pub mod facts;
mod login_names;
pub mod logins;
pub mod metrics;
pub mod networks;
pub mod owners_lock;
pub mod record;
pub mod relay;
pub mod remedies;
pub mod scram;
pub mod sender;
pub mod sender_domains;
pub mod shell;
pub mod standing;
pub mod verification;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use postern_config::Config;
use postern_smtp::ForwardPath;

use standing::Standing;
use standing::rates::Use;

/// The rules of one configuration, ready to be asked. Made anew at every reload and swapped whole.
#[derive(Debug)]
pub struct Policy {
    /// Trusted networks, relay domains, refusing routes.
    pub relay: relay::Rules,
    /// Local domains, mailboxes, aliases.
    pub directory: directory::Directory,
    /// Logins.
    pub accounts: accounts::Accounts,
    /// What is asked of their senders.
    pub senders: sender::Rules,
    /// What is noted about logins.
    pub logins: logins::Rules,
    /// What an operator is told to do about refusals.
    pub site: remedies::Site,
    /// What holds beside the configuration.
    pub standing: Arc<Standing>,
}

impl Policy {
    /// Compiles the rules. The configuration was checked when it was loaded, so this cannot fail.
    /// Nothing holds beside it.
    pub fn new(config: &Config) -> Self {
        Self::over(config, Arc::default())
    }

    /// The same over what holds beside the configuration.
    pub fn over(config: &Config, standing: Arc<Standing>) -> Self {
        Self {
            relay: relay::Rules::new(config),
            directory: directory::Directory::new(config),
            accounts: accounts::Accounts::of(config),
            senders: sender::Rules::new(config),
            logins: logins::Rules::new(config),
            site: remedies::Site::of(config),
            standing,
        }
    }

    /// By which right other than a trusted network the client may send this sender's mail elsewhere without a login:
    /// `grant scanner`, `host branch.proseware.test`. `None`: by none.
    pub fn granted(&self, question: &relay::Question<'_>) -> Option<String> {
        relay::granted(question, self)
    }

    /// Whether the senders that the header names are bound to somebody: to a login, or to the client's grant.
    pub fn binds_header(&self, question: &relay::Question<'_>) -> bool {
        relay::binds_header(question, self)
    }

    /// Whose the domain of a recipient is, in a word for logs: `local`, `relay` or `foreign`. `own` is the address of ours that
    /// the client connected to.
    pub fn recipient_class(&self, path: &ForwardPath, own: Option<IpAddr>) -> &'static str {
        relay::recipient_class(path, own, self)
    }

    /// Notes what a decision in favour tells about a login. The live server calls it; dry runs do not.
    pub fn count(&self, question: &relay::Question<'_>) {
        self.note_accepted(question);
    }

    /// Takes what a decision in favour of a recipient uses of the rate of a grant. Given back unless [`Use::keep`] says that the
    /// message is accepted. The live server calls it; dry runs do not.
    pub fn take(&self, client: IpAddr, decision: &relay::Decision, now: SystemTime, taken: &mut Use) {
        if let relay::Reason::AddressGrant { label } = &decision.reason
            && let Some(rate) = self.relay.rate(client, label)
        {
            taken.take(label, rate, now);
        }
    }
}
