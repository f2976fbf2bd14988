//! Permanent told from temporary: what a reply or a failure means for a recipient.

use std::io;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use postern_queue::{Handover, Outcome, Report, StoreError};
use postern_smtp::reply::ReplyError;
use postern_smtp::{EnhancedStatus, Reply, ReplyClass};

/// How far an attempt has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Opening the connection.
    Connect,
    /// Waiting for the 220.
    Greeting,
    /// EHLO, HELO or LHLO.
    Hello,
    /// STARTTLS and the handshake.
    Tls,
    /// AUTH.
    Login,
    /// MAIL FROM; with it RSET before it.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// The reply to DATA.
    Data,
    /// Sending the content.
    Content,
    /// The reply to the final dot.
    End,
}

impl Stage {
    /// As logs and reports name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Hello => "EHLO",
            Self::Tls => "STARTTLS",
            Self::Login => "AUTH",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Content => "content",
            Self::End => "end of data",
        }
    }

    /// What is done when something of ours is out, as the queue is told and operators read it.
    pub(crate) fn sent(self) -> &'static str {
        match self {
            Self::Connect | Self::Greeting => "connected",
            Self::Hello => "EHLO sent",
            Self::Tls => "STARTTLS sent",
            Self::Login => "AUTH sent",
            Self::Mail => "MAIL sent",
            Self::Rcpt => "RCPT sent",
            Self::Data => "DATA sent",
            Self::Content | Self::End => "content sent",
        }
    }

    /// Likewise, when the other side has answered.
    pub(crate) fn answered(self) -> &'static str {
        match self {
            Self::Connect => "connected",
            Self::Greeting => "greeting received",
            Self::Hello => "EHLO answered",
            Self::Tls => "STARTTLS answered",
            Self::Login => "logged in",
            Self::Mail => "MAIL answered",
            Self::Rcpt => "RCPT answered",
            Self::Data => "DATA answered",
            Self::Content => "content answered",
            Self::End => "end of data answered",
        }
    }
}

/// Why the dialogue with a host came to no end.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection.
    #[error("connection failed: {target}: {}", why_unreachable(source))]
    Unreachable {
        /// The host, its address and the port.
        target: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("connection lost at {}: {source}", stage.as_str())]
    Lost {
        /// Where.
        stage: Stage,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("no answer in time at {}", .0.as_str())]
    Timeout(Stage),
    /// An answer that is not SMTP.
    #[error("at {}: {source}", stage.as_str())]
    NotSmtp {
        /// Where.
        stage: Stage,
        /// What is wrong with it.
        #[source]
        source: ReplyError,
    },
    /// An answer that ends the dialogue: to the greeting, to EHLO, or a 421 anywhere.
    #[error("{} refused: {reply}", stage.as_str())]
    Refused {
        /// Where.
        stage: Stage,
        /// The answer.
        reply: Reply,
    },
    /// A reply that has no sense at its place.
    #[error("unexpected reply to {}: {reply}", stage.as_str())]
    Unexpected {
        /// Where.
        stage: Stage,
        /// The answer.
        reply: Reply,
    },
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// TLS is required here and not offered there.
    #[error("TLS is required, and the host does not offer STARTTLS")]
    TlsNotOffered,
    /// The message demands REQUIRETLS of every host (RFC 8689 §4.2.1), and this one does not promise it.
    #[error("REQUIRETLS support required: the host does not offer it")]
    RequireTlsNotOffered,
    /// The message demands REQUIRETLS, and this host has no TLS at all.
    #[error("encryption needed (REQUIRETLS): the host does not offer STARTTLS")]
    EncryptionNotOffered,
    /// The smarthost does not take our login.
    #[error("login refused: {0}")]
    LoginRefused(String),
    /// The message cannot be read from the spool.
    #[error("the message cannot be read: {0}")]
    Content(#[source] StoreError),
}

impl Failure {
    /// Where it happened.
    pub fn stage(&self) -> Stage {
        match self {
            Self::Unreachable { .. } => Stage::Connect,
            Self::Lost { stage, .. }
            | Self::Timeout(stage)
            | Self::NotSmtp { stage, .. }
            | Self::Refused { stage, .. }
            | Self::Unexpected { stage, .. } => *stage,
            Self::Handshake(_)
            | Self::TlsNotOffered
            | Self::RequireTlsNotOffered
            | Self::EncryptionNotOffered => Stage::Tls,
            Self::LoginRefused(_) => Stage::Login,
            Self::Content(_) => Stage::Content,
        }
    }

    /// The 421 that closed the connection (RFC 5321 §3.8).
    pub fn closing(&self) -> Option<&Reply> {
        match self {
            Self::Refused { reply, .. } if reply.code == 421 => Some(reply),
            _ => None,
        }
    }

    /// Whether the host gave no answer, or none that has a sense.
    pub fn is_no_answer(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Timeout(_) | Self::NotSmtp { .. } | Self::Unexpected { .. })
    }

    /// Whether the host cannot keep what the message demands, and does not promise to.
    pub fn is_unmet_demand(&self) -> bool {
        matches!(self, Self::RequireTlsNotOffered | Self::EncryptionNotOffered)
    }

    /// Whether another host of the destination may do better: nothing of the message was sent yet, and this host did not
    /// ask us to stop.
    pub fn suggests_next_host(&self) -> bool {
        self.stage() < Stage::Content && self.closing().is_none_or(|_| self.stage() < Stage::Mail)
    }

    /// What it means for every recipient that has no outcome yet.
    pub fn verdict(&self) -> Verdict {
        let (subject, detail) = match self {
            // A host that turns everybody away is one that is not there: for a while (RFC 5321 §4.2.4.2 leaves it open).
            Self::Refused { stage: Stage::Greeting | Stage::Tls, reply } => {
                return Verdict::Later(reply.clone());
            }
            Self::Refused { reply, .. } => return Verdict::Reply(reply.clone()),
            // RFC 8689 §4.2.1 names both codes.
            Self::RequireTlsNotOffered => return Verdict::never(7, 30, self.to_string()),
            Self::EncryptionNotOffered => return Verdict::never(7, 10, self.to_string()),
            Self::Unreachable { .. } => (4, 1),
            Self::Lost { .. } | Self::Timeout(_) => (4, 2),
            Self::NotSmtp { .. } | Self::Unexpected { .. } => (5, 0),
            Self::Handshake(_) => (7, 5),
            Self::TlsNotOffered => (7, 4),
            Self::LoginRefused(_) => (7, 8),
            Self::Content(_) => (3, 0),
        };
        let mut text = self.to_string();
        if self.stage() == Stage::End {
            text.push_str("; the host may have taken the message, then it comes twice");
        }
        Verdict::Ours { status: EnhancedStatus::new(4, subject, detail), text }
    }
}

/// What the system says of a connection that did not come about, in the words of logs of mail servers; for rarer causes in its own.
fn why_unreachable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}

/// What was learnt about a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The other side's answer, which decides by its first digit.
    Reply(Reply),
    /// The other side's answer, to be tried again whatever its first digit says.
    Later(Reply),
    /// Our own finding; the class of the status decides.
    Ours {
        /// 2, 4 or 5 in front.
        status: EnhancedStatus,
        /// In our words.
        text: String,
    },
}

impl Verdict {
    /// Our own finding that mail to this recipient can never be delivered.
    pub fn never(subject: u16, detail: u16, text: impl Into<String>) -> Self {
        Self::Ours { status: EnhancedStatus::new(5, subject, detail), text: text.into() }
    }

    /// Our own finding that it cannot be delivered now.
    pub fn later(subject: u16, detail: u16, text: impl Into<String>) -> Self {
        Self::Ours { status: EnhancedStatus::new(4, subject, detail), text: text.into() }
    }
}

/// The circumstances that are the same for all recipients of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circumstances {
    /// The host that was spoken to.
    pub host: Option<String>,
    /// How the connection was protected.
    pub tls: Option<String>,
    /// When.
    pub at: SystemTime,
    /// Who reports success from here on.
    pub handover: Handover,
}

/// The outcome that goes to the queue.
pub fn outcome(verdict: Verdict, circumstances: &Circumstances) -> Outcome {
    let report = |status: EnhancedStatus, text: String, is_reply: bool| Report {
        status,
        text,
        is_reply,
        host: circumstances.host.clone(),
        tls: circumstances.tls.clone(),
        at: circumstances.at,
    };
    match verdict {
        Verdict::Ours { status, text } => match status.class {
            2 => Outcome::Delivered(report(status, text, false), circumstances.handover),
            4 => Outcome::Deferred(report(status, text, false), None),
            _ => Outcome::Failed(report(status, text, false)),
        },
        Verdict::Later(reply) => deferred(&reply, report),
        Verdict::Reply(reply) => match reply.class() {
            ReplyClass::Success => {
                Outcome::Delivered(report(status(&reply, 2), reply.to_string(), true), circumstances.handover)
            }
            ReplyClass::Permanent => Outcome::Failed(report(status(&reply, 5), reply.to_string(), true)),
            // A 3yz has no sense where an outcome is due: nothing is lost by trying again.
            ReplyClass::Transient | ReplyClass::Intermediate => deferred(&reply, report),
        },
    }
}

fn deferred(reply: &Reply, report: impl Fn(EnhancedStatus, String, bool) -> Report) -> Outcome {
    let hint = match reply.class() {
        ReplyClass::Transient => wait_hint(&reply.text()),
        _ => None,
    };
    Outcome::Deferred(report(status(reply, 4), reply.to_string(), true), hint)
}

/// The enhanced status code of the reply in the class of the outcome; `X.0.0` if it has none (RFC 3463 §3.1).
fn status(reply: &Reply, class: u8) -> EnhancedStatus {
    reply.status.map_or(EnhancedStatus::new(class, 0, 0), |status| EnhancedStatus { class, ..status })
}

/// A stated wait outside this range is not believed.
const BELIEVED_WAITS: RangeInclusive<u64> = 60..=4 * 3600;

/// How long the other side asks us to wait, as greylisting servers say it: "try again in 5 minutes", "retry after 300
/// seconds", "come back in 00:04:59".
pub(crate) fn wait_hint(text: &str) -> Option<Duration> {
    let text = text.to_ascii_lowercase();
    if !["again", "retry", "grey", "gray", "back", "wait"].iter().any(|word| text.contains(word)) {
        return None;
    }
    let words: Vec<&str> = text.split([' ', ',', ';', '(', ')']).filter(|word| !word.is_empty()).collect();
    let seconds = words.iter().enumerate().find_map(|(at, word)| stated_seconds(word, words.get(at + 1)))?;
    BELIEVED_WAITS.contains(&seconds).then(|| Duration::from_secs(seconds))
}

fn stated_seconds(word: &str, next: Option<&&str>) -> Option<u64> {
    let word = word.trim_end_matches('.');
    let clock: Vec<&str> = word.split(':').collect();
    if let [hours, minutes, seconds] = clock[..] {
        let number = |digits: &str| digits.parse::<u64>().ok().filter(|n| *n < 100);
        return Some(number(hours)? * 3600 + number(minutes)? * 60 + number(seconds)?);
    }
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = word[..digits].parse().ok()?;
    let unit = match &word[digits..] {
        "" => next.copied().unwrap_or_default().trim_end_matches('.'),
        attached => attached,
    };
    let factor = match unit {
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(verdict: Verdict) -> Outcome {
        let circumstances = Circumstances {
            host: Some("mx.adatum.test".to_owned()),
            tls: None,
            at: SystemTime::UNIX_EPOCH,
            handover: Handover::Relayed,
        };
        outcome(verdict, &circumstances)
    }

    fn refused(stage: Stage, code: u16) -> Failure {
        Failure::Refused { stage, reply: Reply::plain(code, "no") }
    }

    #[test]
    fn the_first_digit_decides() {
        let delivered = decide(Verdict::Reply(Reply::plain(250, "ok")));
        assert!(
            matches!(delivered, Outcome::Delivered(report, Handover::Relayed) if report.status.to_string() == "2.0.0")
        );
        let status = EnhancedStatus::new(5, 1, 1);
        let failed = decide(Verdict::Reply(Reply::new(550, status, "unknown\nreally")));
        assert!(matches!(&failed, Outcome::Failed(report) if report.status == status));
        assert_eq!(failed.report().text, "550 5.1.1 unknown really");
        assert!(matches!(decide(Verdict::Reply(Reply::plain(450, "later"))), Outcome::Deferred(_, None)));
        assert!(matches!(decide(Verdict::Reply(Reply::plain(354, "what?"))), Outcome::Deferred(_, None)));
    }

    fn unreachable(source: io::Error) -> Failure {
        Failure::Unreachable { target: "mx.adatum.test (192.0.2.7:25)".to_owned(), source }
    }

    #[test]
    fn a_connection_that_failed_says_where_to_and_why() {
        let text = |source| decide(unreachable(source).verdict()).report().text.clone();
        for (kind, reason) in [
            (io::ErrorKind::ConnectionRefused, "connection refused"),
            (io::ErrorKind::TimedOut, "connection timed out"),
            (io::ErrorKind::HostUnreachable, "no route to host"),
            (io::ErrorKind::NetworkUnreachable, "network is unreachable"),
        ] {
            let expected = format!("connection failed: mx.adatum.test (192.0.2.7:25): {reason}");
            assert_eq!(text(kind.into()), expected);
        }
        // EADDRNOTAVAIL: an address of outbound.source_addresses that this machine does not have.
        assert!(text(io::Error::from_raw_os_error(99)).contains("Cannot assign requested address"));
    }

    #[test]
    fn a_greeting_that_refuses_is_never_final() {
        let outcome = decide(refused(Stage::Greeting, 554).verdict());
        assert!(
            matches!(&outcome, Outcome::Deferred(report, None) if report.status.class == 4),
            "{outcome:?}"
        );
        assert!(matches!(decide(refused(Stage::Hello, 550).verdict()), Outcome::Failed(_)));
    }

    #[test]
    fn failures_are_deferred_with_their_own_status() {
        let lost = |stage| Failure::Lost { stage, source: io::ErrorKind::ConnectionReset.into() };
        let refused = unreachable(io::ErrorKind::ConnectionRefused.into());
        for (failure, expected) in [
            (refused, "4.4.1"),
            (lost(Stage::Mail), "4.4.2"),
            (Failure::Timeout(Stage::End), "4.4.2"),
            (Failure::TlsNotOffered, "4.7.4"),
            (Failure::LoginRefused("535 no".to_owned()), "4.7.8"),
        ] {
            let outcome = decide(failure.verdict());
            assert!(matches!(outcome, Outcome::Deferred(_, None)));
            assert_eq!(outcome.report().status.to_string(), expected);
        }
        assert!(decide(lost(Stage::End).verdict()).report().text.contains("twice"));
    }

    #[test]
    fn the_next_host_is_tried_only_while_nothing_was_sent_and_nobody_said_stop() {
        assert!(refused(Stage::Greeting, 421).suggests_next_host());
        assert!(!refused(Stage::Rcpt, 421).suggests_next_host());
        assert!(Failure::Timeout(Stage::Data).suggests_next_host());
        assert!(!Failure::Timeout(Stage::End).suggests_next_host());
    }

    #[test]
    fn stated_waits_are_found_and_odd_ones_not_believed() {
        let minutes = |text: &str| wait_hint(text).map(|wait| wait.as_secs() / 60);
        assert_eq!(minutes("Greylisted, please try again in 5 minutes."), Some(5));
        assert_eq!(minutes("4.7.1 Try again later, retry after 300 seconds"), Some(5));
        assert_eq!(minutes("Greylisting in action, please come back in 00:14:59"), Some(14));
        assert_eq!(minutes("Please wait 600s and retry"), Some(10));
        assert_eq!(minutes("try again in 1 hour"), Some(60));
        assert_eq!(minutes("try again in 3 seconds"), None);
        assert_eq!(minutes("try again in 2000 hours"), None);
        assert_eq!(minutes("try again in 99999999999999999999 minutes"), None);
        assert_eq!(minutes("quota of 5 minutes exceeded"), None);
        assert_eq!(minutes("try again later (queue 12)"), None);
    }
}
