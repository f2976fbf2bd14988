//! What a refusal by the policy says: cause and advice for each reason, in the wording that `[replies]` asks for.

use postern_config::replies::{Class, Wording};
use postern_config::{Config, LoginPorts};
use postern_policy::record::{Name, Told};
use postern_policy::relay::{Decision, Question, Reason, Stage, Verdict};
use postern_smtp::{EnhancedStatus, ForwardPath, Reply};

use super::{families, log_in};

/// Octets of one name or address in a reply: the longest path there is (RFC 5321 §4.5.3.1.3).
const MOST_OF_NAME: usize = 256;

/// A decision that is to be told to a client.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// What was asked.
    pub question: &'a Question<'a>,
    /// The answer: reject or defer.
    pub decision: &'a Decision,
    /// How its record is called; `None`: there is none.
    pub name: Option<&'a Name>,
    /// Whose wording counts.
    pub config: &'a Config,
}

/// Puts a decision of the policy that is not "accept" into words. The reference leads to the record of it.
pub fn refused(refused: &Refused<'_>) -> (Reply, Told) {
    let Refused { question, decision, name, config } = *refused;
    let words = words(question, &decision.reason, &LoginPorts::of(&config.listeners));
    let class = decision.reason.class().unwrap_or(Class::Rule);
    let facts = Facts::new(question, &words, name, config);
    let wording = config.replies.wording(class);
    let phrase = match &wording.text {
        Some(template) => Phrase { text: facts.fill(template), ..facts.default_phrase(&words) },
        None => {
            let (family, at_auth) = (config.replies.family(class), matches!(question.stage, Stage::Login));
            families::phrase(family, class, &decision.reason, &facts, at_auth)
                .unwrap_or_else(|| facts.default_phrase(&words))
        }
    };
    let phrase = match has_own_code(&decision.reason) {
        true => phrase,
        false => for_now(coded(phrase, wording), decision.verdict),
    };
    let phrase = match class == Class::Relay && config.replies.migrating && phrase.code >= 500 {
        true => Phrase { code: 454, status: Some(EnhancedStatus::new(4, 7, 1)), ..phrase },
        false => phrase,
    };
    let reply = match phrase.status {
        Some(status) => Reply::new(phrase.code, status, &phrase.text),
        None => Reply::plain(phrase.code, &phrase.text),
    };
    let told = Told { class, cause: words.cause, advice: words.advice, reply: reply.to_string() };
    (reply, told)
}

/// Codes that say what a client is to do next: whatever the words are, they stay. 421: the connection ends (RFC 5321 §3.8). 452 at
/// RCPT: the rest goes into another transaction (RFC 5321 §4.5.3.1.10). 553 5.6.7: SMTPUTF8 is missing (RFC 6531 §3.5).
fn has_own_code(reason: &Reason) -> bool {
    matches!(reason, Reason::Banned { .. } | Reason::TooManyRecipients { .. } | Reason::NeedsSmtputf8)
}

/// One reply, before it is put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Phrase {
    pub code: u16,
    pub status: Option<EnhancedStatus>,
    pub text: String,
}

/// The codes that the configuration asks for.
fn coded(phrase: Phrase, wording: &Wording) -> Phrase {
    let Some(code) = wording.code else { return phrase };
    // Both were checked when the configuration was loaded: what is no status is the empty text, for none.
    let status = match &wording.status {
        Some(status) => status.parse().ok(),
        None => phrase.status.map(|status| EnhancedStatus { class: (code / 100) as u8, ..status }),
    };
    Phrase { code, status, ..phrase }
}

/// A deferral has the words of the refusal: only the first digits say that it may pass later.
fn for_now(phrase: Phrase, verdict: Verdict) -> Phrase {
    if verdict == Verdict::Reject || phrase.code < 500 {
        return phrase;
    }
    let status = phrase.status.map(|status| EnhancedStatus { class: 4, ..status });
    Phrase { code: 450, status, ..phrase }
}

/// What a wording can say. Nothing of it can end a line or leave its place, and all of it is bounded.
#[derive(Debug)]
pub(super) struct Facts {
    /// The recipient, else the sender.
    pub address: String,
    pub client: String,
    /// Empty where nobody is logged in.
    pub login: String,
    cause: String,
    advice: String,
    /// Empty where there is no record.
    reference: String,
    /// The page of this refusal.
    page: Option<String>,
    /// The page that refusals point to.
    report: Option<String>,
}

impl Facts {
    fn new(question: &Question<'_>, words: &Words, name: Option<&Name>, config: &Config) -> Self {
        let address = match question.stage {
            Stage::Rcpt(path) => path.to_string(),
            Stage::Connect | Stage::Login | Stage::Mail | Stage::Message(_) => {
                question.reverse_path.to_string()
            }
        };
        let base = config.report.base();
        let token = name.and_then(|name| name.token);
        Self {
            address: printable(&address),
            client: question.client.to_canonical().to_string(),
            login: question.login.map(|login| printable(&login.name)).unwrap_or_default(),
            cause: words.cause.clone(),
            advice: words.advice.clone(),
            reference: name.map(|name| name.reference.to_string()).unwrap_or_default(),
            page: base.zip(token).map(|(base, token)| format!("{base}{token}")),
            report: config.replies.report_url.clone(),
        }
    }

    /// `<bob@adatum.test>: relay not permitted: ...; log in on port 587 or 465 (ref 4QX7-93KD)`
    fn default_phrase(&self, words: &Words) -> Phrase {
        let about = if words.is_about_address { format!("<{}>: ", self.address) } else { String::new() };
        let advice = if self.advice.is_empty() { String::new() } else { format!("; {}", self.advice) };
        let text = format!("{about}{}{advice}{}", self.cause, self.reference());
        Phrase { code: words.code, status: Some(words.status()), text }
    }

    /// Which limit it is, and when there is room again.
    pub fn limit(&self) -> String {
        format!("{}; {}", self.cause, self.advice)
    }

    /// What stands behind the words of every family: how to ask about it.
    pub fn reference(&self) -> String {
        match (&self.page, self.reference.as_str()) {
            (_, "") => String::new(),
            (None, reference) => format!(" (ref {reference})"),
            (Some(page), reference) => format!(" (ref {reference} {page})"),
        }
    }

    /// The page with what it needs to know: `https://reports.example/?id=4QX7-93KD&auth=alice%40proseware.test`. Where
    /// no such page is configured, the page of this refusal.
    pub fn url(&self) -> String {
        let Some(report) = &self.report else { return self.page.clone().unwrap_or_default() };
        let separator = if report.contains('?') { '&' } else { '?' };
        format!("{report}{separator}id={}&auth={}", self.reference, percent_encoded(&self.login))
    }

    fn fill(&self, template: &str) -> String {
        let mut text = String::with_capacity(template.len() + 64);
        let mut rest = template;
        while let Some((before, behind)) = rest.split_once('{') {
            text.push_str(before);
            let (name, after) = behind.split_once('}').unwrap_or((behind, ""));
            text.push_str(&self.value(name));
            rest = after;
        }
        text + rest
    }

    fn value(&self, name: &str) -> String {
        match name {
            "address" => self.address.clone(),
            "client" => self.client.clone(),
            "login" => self.login.clone(),
            "cause" => self.cause.clone(),
            "advice" => self.advice.clone(),
            "ref" if self.reference.is_empty() => "not kept".to_owned(),
            "ref" => self.reference.clone(),
            "url" => self.url(),
            // The configuration was checked.
            _ => String::new(),
        }
    }
}

/// One line, not longer than an address can be.
fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '?' } else { c };
    let end = text.char_indices().map(|(at, _)| at).find(|at| *at >= MOST_OF_NAME).unwrap_or(text.len());
    text[..end].chars().map(shown).collect()
}

/// Everything but what never needs it (RFC 3986 §2.3).
fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// The words of a reason.
struct Words {
    code: u16,
    subject: u16,
    detail: u16,
    /// Whether the address belongs in front.
    is_about_address: bool,
    /// What is the matter; it stands by itself.
    cause: String,
    /// What the sender can do; empty where there is nothing.
    advice: String,
}

impl Words {
    fn new(code: u16, subject: u16, detail: u16, cause: impl Into<String>) -> Self {
        let (cause, advice) = (cause.into(), String::new());
        Self { code, subject, detail, is_about_address: false, cause, advice }
    }

    /// A refusal of the address that was given: it stands in front.
    fn of_address(code: u16, subject: u16, detail: u16, cause: impl Into<String>) -> Self {
        Self { is_about_address: true, ..Self::new(code, subject, detail, cause) }
    }

    fn advice(self, advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), ..self }
    }

    fn status(&self) -> EnhancedStatus {
        EnhancedStatus::new(if self.code < 500 { 4 } else { 5 }, self.subject, self.detail)
    }
}

fn words(question: &Question<'_>, reason: &Reason, ports: &LoginPorts) -> Words {
    match reason {
        Reason::NotAuthenticated if question.tls => {
            Words::new(530, 7, 0, "authentication required: log in with AUTH first, on this port")
        }
        Reason::NotAuthenticated => {
            Words::new(530, 7, 0, format!("authentication required: {}", starttls(ports)))
        }
        // A login always may: who is refused has none.
        Reason::NotTrustedNotLocal => {
            let client = question.client.to_canonical();
            let cause = format!("relay not permitted: {client} is not logged in and not a trusted network");
            Words::of_address(550, 7, 1, cause).advice(log_in(ports))
        }
        // How we call the grant is nobody else's business.
        Reason::GrantTooNarrow { what, .. } => {
            let grant = grant_of(question);
            Words::of_address(550, 7, 1, format!("relay not permitted: {grant} does not cover the {what}"))
        }
        // RFC 3463 §3.5: 4.4.3, directory server failure. The name is nobody else's business.
        Reason::HostNameUnknown { .. } => {
            Words::of_address(451, 4, 3, "relay not permitted now: DNS does not say who you are")
                .advice("try again later")
        }
        Reason::Rate { limit, resets_in, .. } => {
            let cause = format!("{} has a limit of {limit}", grant_of(question));
            Words::new(451, 7, 1, cause).advice(again(*resets_in))
        }
        Reason::Quota { login, limit, used, resets_in } => {
            let cause = format!("{login} has a limit of {limit}, and this would make {used}");
            let advice = resets_in.map_or_else(|| "send to fewer at once".to_owned(), again);
            Words::new(451, 7, 1, cause).advice(advice)
        }
        Reason::DnsTrouble { domain, what } => {
            Words::new(451, 4, 3, format!("DNS does not say whether {domain} may be used: {what}"))
                .advice("try again later")
        }
        Reason::UnknownRecipient => Words::of_address(550, 1, 1, "no such user here"),
        Reason::AliasLoop => Words::of_address(550, 4, 6, "alias leads back to itself"),
        Reason::BadDestination => Words::of_address(550, 1, 2, "no mail can be sent to this address"),
        Reason::RecipientPolicy { text }
        | Reason::StandingRule { text, .. }
        | Reason::HeaderBlockedSender { text, .. } => Words::of_address(550, 7, 1, text),
        Reason::Blocklisted { client, lists, text, .. } => {
            let cause = format!("mail from {client} is refused: it is listed by {lists}");
            Words::of_address(550, 7, 1, cause).advice(text.clone().unwrap_or_else(|| delisting(question)))
        }
        // By whom and why is nobody else's business.
        Reason::Banned { by_hand: true, .. } => {
            Words::new(421, 7, 0, "connections from your address are not accepted now")
                .advice("ask postmaster")
        }
        Reason::Banned { .. } => {
            Words::new(421, 7, 0, "too many failed logins from your address").advice("try again later")
        }
        Reason::MalformedHeader => {
            Words::new(550, 6, 0, "message header has a NUL or a line that is no header field")
        }
        Reason::NeedsSmtputf8 => Words::new(553, 6, 7, "address needs the SMTPUTF8 parameter of MAIL"),
        Reason::TooManyRecipients { limit } => {
            Words::new(452, 5, 3, format!("too many recipients, {limit} is the limit"))
                .advice("send the rest in another transaction")
        }
        Reason::HeaderFromUnusable { problem } => {
            Words::new(550, 6, 0, format!("unusable From header: {problem}"))
        }
        Reason::WrongPassword { .. }
        | Reason::LoginNotOffered { .. }
        | Reason::LoginSuspended { .. }
        | Reason::ClientAddressNotAllowed { .. } => login_words(question, reason, ports),
        _ => sender_words(question, reason).unwrap_or_else(|| Words::of_address(550, 7, 1, "not permitted")),
    }
}

/// How to log in where TLS is still missing. The port is named where there is but one: which of several the client came to, it
/// knows itself.
fn starttls(ports: &LoginPorts) -> String {
    let here = match &ports.starttls[..] {
        [port] => format!(" on port {port}"),
        _ => String::new(),
    };
    let or = ports.tls_words().map(|ports| format!(", or use TLS on port {ports}")).unwrap_or_default();
    format!("use STARTTLS and log in here{here}{or}")
}

/// What a listed client can do: postmaster takes its mail (RFC 5321 §4.5.1).
fn delisting(question: &Question<'_>) -> String {
    let domain = match question.stage {
        Stage::Rcpt(ForwardPath::Address(address)) => address.domain(),
        _ => None,
    };
    let postmaster = domain.map_or("postmaster".to_owned(), |domain| format!("postmaster@{domain}"));
    format!("have it removed there, or write to {postmaster}")
}

/// AUTH. Unknown login and wrong password are answered alike.
fn login_words(question: &Question<'_>, reason: &Reason, ports: &LoginPorts) -> Words {
    // What AUTH fails with (RFC 4954 §6), and commands of an open session later.
    let code = if matches!(question.stage, Stage::Login) { 535 } else { 550 };
    match reason {
        Reason::LoginNotOffered { .. } if question.listener.is_submission() => {
            // RFC 4954 §4, RFC 5248.
            let or = ports.tls_words().map(|ports| format!(", or port {ports}")).unwrap_or_default();
            Words::new(538, 7, 11, format!("encryption required for authentication: use STARTTLS first{or}"))
        }
        Reason::LoginNotOffered { .. } => {
            Words::new(503, 5, 1, format!("no authentication on this port: {}", log_in(ports)))
        }
        Reason::LoginSuspended { login, state, .. } => {
            Words::new(code, 7, 13, format!("{login} is {state}")).advice("ask postmaster")
        }
        Reason::ClientAddressNotAllowed { login, client } => {
            Words::new(code, 7, 1, format!("{login} may not be used from {client}"))
        }
        _ => Words::new(535, 7, 8, "wrong user name or password"),
    }
}

/// The grant that a client has, as the client is told of it.
fn grant_of(question: &Question<'_>) -> String {
    format!("the grant for {}", question.client.to_canonical())
}

/// When a limit has room again.
fn again(seconds: u64) -> String {
    format!("try again in {}", duration_words(seconds))
}

/// `90 seconds`, `12 minutes`, `3 hours`.
fn duration_words(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} seconds"),
        120..=7199 => format!("{} minutes", seconds.div_ceil(60)),
        _ => format!("{} hours", seconds.div_ceil(3600)),
    }
}

/// Senders that a login, or a client with a grant, may not use. `None`: it is about something else.
fn sender_words(question: &Question<'_>, reason: &Reason) -> Option<Words> {
    let mut advice = "";
    let cause = match reason {
        Reason::LoginLacksPermission { login, sender } => {
            format!("<{sender}>: sender not permitted: {login} may not send as this address")
        }
        Reason::SenderDomainNotListed { login, sender } => {
            format!("<{sender}>: sender not permitted: {login} may not send from this domain")
        }
        Reason::HeaderFromMismatch { grant: Some(_), field, address, .. } => {
            format!("{field} header not permitted: {} does not cover {address}", grant_of(question))
        }
        Reason::HeaderFromMismatch { login, field, address, .. } => {
            format!("{field} header not permitted: {login} may not send as {address}")
        }
        Reason::DomainNotVerified { domain, state, missing } => {
            advice = "ask postmaster";
            format!(
                "mail from {domain} is not permitted: its DNS is not in order ({state}, {missing} is missing)"
            )
        }
        Reason::OwnersLock { login, domain, problem: None } => {
            format!(
                "mail from {domain} is not permitted: its owner does not name {login} at _postern.{domain}"
            )
        }
        Reason::OwnersLock { domain, problem: Some(problem), .. } => {
            format!(
                "mail from {domain} is not permitted: the TXT record of its owner at _postern.{domain} cannot be \
                 understood: {problem}"
            )
        }
        Reason::SpfDoesNotCover { domain, result, .. } => {
            format!("mail from {domain} is not permitted: its SPF record says {result} of this server")
        }
        _ => return None,
    };
    Some(Words::new(550, 7, 1, cause).advice(advice))
}

#[cfg(test)]
mod tests;
