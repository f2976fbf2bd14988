//! Mail to our own postmaster: about what the senders of waiting mail can do nothing about, such as a login that is refused,
//! and about logins of ours that look as if they were stolen.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use postern_policy::directory::Resolution;
use postern_queue::incoming::AcceptError;
use postern_queue::{Destination, Envelope, Origin, Queue, QueueId, Recipient};
use postern_smtp::{Body, ForwardPath, Notify, ReversePath, date};

use crate::settings::Settings;

/// Of one smarthost, no more than one message in so long.
const SILENCE: Duration = Duration::from_secs(24 * 3600);
/// Of what the other side said, so many characters: a line of ours stays within the limit (RFC 5322 §2.1.1).
const MAX_QUOTED: usize = 200;

/// What postmaster was told.
#[derive(Debug, Default)]
pub(crate) struct Postmaster {
    told: Mutex<HashMap<Destination, SystemTime>>,
}

impl Postmaster {
    /// Tells that a smarthost refuses our login, unless that was told lately.
    pub(crate) async fn login_refused(
        &self,
        smarthost: &Destination,
        answer: &str,
        settings: &Settings,
        queue: &Queue,
        now: SystemTime,
    ) {
        if !self.is_news(smarthost, now) {
            return;
        }
        match tell(&refused(smarthost, answer), settings, queue, now).await {
            Ok(Some(id)) => tracing::info!(event = "postmaster-told", %id, destination = %smarthost),
            Ok(None) => tracing::warn!(event = "postmaster-unknown", destination = %smarthost),
            Err(error) => {
                self.told.lock().remove(smarthost);
                tracing::warn!(event = "postmaster-not-told", destination = %smarthost, %error);
            }
        }
    }

    fn is_news(&self, smarthost: &Destination, now: SystemTime) -> bool {
        let mut told = self.told.lock();
        // A clock that was set back makes it news, too.
        let lately = |at: &SystemTime| now.duration_since(*at).is_ok_and(|age| age < SILENCE);
        if told.get(smarthost).is_some_and(lately) {
            return false;
        }
        told.insert(smarthost.clone(), now);
        true
    }
}

/// A message to postmaster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Of one line; what is more of it becomes blanks.
    pub subject: String,
    /// What is said below the name of the server. Lines end with CR LF.
    pub body: String,
}

fn refused(smarthost: &Destination, answer: &str) -> Notice {
    let body = format!(
        "It cannot log in at\r\n\r\n    {}\r\n\r\n\
         which says\r\n\r\n    {}\r\n\r\n\
         Mail that goes there waits, and is returned to its senders when its time is over.\r\n\
         Please look at `username` and `password_file` of the route.\r\n",
        quoted(&smarthost.0),
        quoted(answer)
    );
    Notice { subject: "A smarthost refuses our login".to_owned(), body }
}

/// Queues the message; `None` if nobody here is postmaster.
///
/// # Errors
/// When the queue does not take it.
pub async fn tell(
    notice: &Notice,
    settings: &Settings,
    queue: &Queue,
    now: SystemTime,
) -> Result<Option<QueueId>, AcceptError> {
    let Resolution::Recipients(postmaster) =
        settings.policy.directory.resolve(&ForwardPath::Postmaster, None)
    else {
        return Ok(None);
    };
    let hostname = &settings.config.hostname;
    let mut incoming = queue.incoming()?;
    let message_id = format!("{}.notice@{hostname}", incoming.id());
    let header = format!(
        "From: Mail Delivery System <MAILER-DAEMON@{hostname}>\r\n\
         To: <postmaster@{hostname}>\r\n\
         Subject: {}\r\n\
         Date: {}\r\n\
         Message-ID: <{message_id}>\r\n\
         Auto-Submitted: auto-generated\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\n",
        quoted(&notice.subject),
        date::rfc5322(now)
    );
    let text = format!("This is the mail server {hostname}. {}", notice.body);
    let body = if text.is_ascii() { Body::SevenBit } else { Body::EightBitMime };
    incoming.write(Bytes::from(text)).await?;
    let recipient = |address| Recipient { notify: Notify::NEVER, ..Recipient::new(address) };
    let envelope = Envelope {
        reverse_path: ReversePath::Null,
        origin: Origin::Own,
        client: None,
        forwarded: None,
        helo: None,
        received: now,
        body,
        smtputf8: false,
        ret: None,
        envelope_id: None,
        message_id: Some(message_id),
        priority: 0,
        terms: Default::default(),
        size: 0,
        recipients: postmaster.into_iter().map(recipient).collect(),
    };
    incoming.commit(envelope, header.into_bytes()).await.map(Some)
}

/// As one line.
fn quoted(text: &str) -> String {
    text.chars().take(MAX_QUOTED).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smarthost_is_news_once_a_day() {
        let postmaster = Postmaster::default();
        let (one, other) = (Destination("smarthost one".into()), Destination("smarthost other".into()));
        let start = SystemTime::UNIX_EPOCH + SILENCE;
        assert!(postmaster.is_news(&one, start));
        assert!(!postmaster.is_news(&one, start + SILENCE / 2));
        assert!(postmaster.is_news(&other, start));
        assert!(postmaster.is_news(&one, start + SILENCE));
        assert!(postmaster.is_news(&one, start));
    }

    #[test]
    fn what_the_other_side_says_stays_one_short_line() {
        assert_eq!(quoted("535 no\r\nBcc: x"), "535 no  Bcc: x");
        assert_eq!(quoted(&"ä".repeat(1000)).chars().count(), MAX_QUOTED);
    }
}
