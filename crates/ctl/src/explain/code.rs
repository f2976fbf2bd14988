//! What a code means, by its number alone.

use postern_policy::bounce::codes::{self, Meaning};
use postern_policy::bounce::texts;
use postern_smtp::EnhancedStatus;
use serde::Serialize;

use super::bounce::paragraphs;
use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output::Look;

/// A code as a person types it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    reply: Option<u16>,
    status: Option<EnhancedStatus>,
}

impl Asked {
    /// `550`, `5.7.1`, `550-5.7.1`, `550 5.7.1`, `#5.7.1`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches('#').trim_end_matches(['.', ':']);
        if let Ok(status) = text.parse() {
            return Some(Self { reply: None, status: Some(status) });
        }
        let (reply, rest) = text.split_at_checked(3)?;
        let is_reply =
            reply.bytes().all(|digit| digit.is_ascii_digit()) && (b'2'..=b'5').contains(&reply.as_bytes()[0]);
        if !is_reply {
            return None;
        }
        let reply = reply.parse().ok();
        match rest.trim_start_matches(['-', ' ', '#', ':']) {
            "" => Some(Self { reply, status: None }),
            status if status.len() < rest.len() => Some(Self { reply, status: Some(status.parse().ok()?) }),
            _ => None,
        }
    }
}

/// The answer. Fields are added, never changed.
#[derive(Debug, Serialize)]
struct Answer {
    reply_code: Option<u16>,
    status: Option<String>,
    /// What the first digit says.
    class: &'static str,
    /// What the reply code says.
    reply_meaning: Option<&'static str>,
    /// What the enhanced code says, or its subject only.
    status_meaning: Option<&'static str>,
    /// Whether the enhanced code is in the registry.
    registered: bool,
    /// Whose move it is.
    side: Option<String>,
    /// What they must change.
    change: Option<&'static str>,
    /// Known replies that use it as a code of their own.
    known: Vec<Use>,
}

/// A vendor's own use of a code.
#[derive(Debug, Serialize)]
struct Use {
    id: &'static str,
    system: &'static str,
    meaning: &'static str,
    side: String,
}

/// Prints what a code means. Ends with [`Exit::Finding`] if no more than its class is known.
///
/// # Errors
/// [`Failure`] if the answer cannot be written.
pub fn run(asked: &Asked, session: &mut Session) -> Result<Exit, Failure> {
    let Some(meaning) = Meaning::of(asked.reply, asked.status) else {
        return Err(Failure::Usage("codes begin with 2, 3, 4 or 5".to_owned()));
    };
    let registered = asked.status.and_then(codes::registered);
    let refuses = asked.status.map_or(asked.reply.is_none_or(|code| code >= 400), |status| status.class > 2);
    let known: Vec<Use> = asked.status.into_iter().flat_map(texts::with_code).map(Use::from).collect();
    let answer = Answer {
        reply_code: asked.reply,
        status: asked.status.map(|status| status.to_string()),
        class: meaning.class,
        reply_meaning: meaning.reply,
        status_meaning: meaning.status,
        registered: meaning.is_registered,
        side: registered.filter(|_| refuses).map(|code| code.side.to_string()),
        change: registered.filter(|_| refuses).map(|code| code.change),
        known,
    };
    let is_recognised = meaning.is_recognised() || !answer.known.is_empty();
    session.out.answer(&answer, text)?;
    Ok(if is_recognised { Exit::Done } else { Exit::Finding })
}

impl From<&texts::Known> for Use {
    fn from(known: &texts::Known) -> Self {
        Self { id: known.id, system: known.system, meaning: known.meaning, side: known.side.to_string() }
    }
}

fn text(answer: &Answer, look: Look) -> String {
    let first = answer.reply_code.or_else(|| answer.status.as_ref()?.split('.').next()?.parse().ok());
    let class = first.map(|code| if code >= 100 { code / 100 } else { code }).unwrap_or_default();
    let mut lines = vec![(format!("{class}.."), answer.class.to_owned())];
    if let Some(code) = answer.reply_code {
        let meaning = answer.reply_meaning.unwrap_or("Not a reply code of SMTP; its first digit counts.");
        lines.push((code.to_string(), meaning.to_owned()));
    }
    if let Some(status) = &answer.status {
        let note = if answer.registered { "" } else { " The code itself is not registered: a vendor's own." };
        lines.push((
            status.clone(),
            format!("{}{note}", answer.status_meaning.unwrap_or("Its subject is not known.")),
        ));
    }
    for known in &answer.known {
        lines.push((known.system.to_owned(), format!("{} ({}; {})", known.meaning, known.side, known.id)));
    }
    // For now means that nobody has to do anything yet.
    let not_yet = if class == 4 { "if it does not pass by itself: " } else { "" };
    if let (Some(side), Some(change)) = (&answer.side, answer.change) {
        lines.push(("who".to_owned(), format!("{not_yet}{side}")));
        lines.push(("change".to_owned(), change.to_owned()));
    }
    lines.push((
        "more".to_owned(),
        "give the whole reply, or the bounce: the words say more than the code".to_owned(),
    ));
    paragraphs("", lines, look)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_people_type_them() {
        let status = Some(EnhancedStatus::new(5, 7, 1));
        for (text, reply) in [
            ("550-5.7.1", Some(550)),
            ("550 5.7.1", Some(550)),
            ("5.7.1", None),
            ("#5.7.1", None),
            (" 550 #5.7.1. ", Some(550)),
        ] {
            assert_eq!(Asked::parse(text), Some(Asked { reply, status }), "{text}");
        }
        assert_eq!(Asked::parse("421"), Some(Asked { reply: Some(421), status: None }));
        for text in ["", "4QX7-93KD", "650", "5.7", "5505.7.1", "42112345", "550 5.7.1 no", "ä5.7.1", "٥٥٠"]
        {
            assert_eq!(Asked::parse(text), None, "{text}");
        }
    }
}
