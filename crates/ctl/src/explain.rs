//! `explain`: a refusal of ours by its reference, a code by its number, a bounce of any system.
//!
//! | asked for | module |
//! |---|---|
//! | a reference such as 4QX7-93KD | [`refusal`] |
//! | a code such as 550-5.7.1, 5.7.1, 421 | [`code`] |
//! | `--bounce`, or a reply as it was pasted | [`bounce`] |
//!
//! Only a reference needs the daemon: it alone has the record. The rest is knowledge, kept in `postern_policy::bounce`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::Session;
use crate::failure::{Exit, Failure};

pub mod bounce;
pub mod code;
pub mod refusal;

const EXAMPLES: &str = "\
Examples:
  posternctl explain 4QX7-93KD
  posternctl explain 550-5.7.1
  posternctl explain 4.7.28
  posternctl explain 421
  posternctl explain '550 5.4.1 Recipient address rejected: Access denied'
  posternctl explain --bounce returned.eml
  posternctl explain --bounce - < returned.eml

Codes, replies and bounces need no daemon. Ends with 1 if nothing was recognised; what was read is shown all the same.";

/// What to explain.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    /// A reference of ours (4QX7-93KD), a code (550-5.7.1, 5.7.1, 421), or a reply as it was pasted.
    #[arg(
        value_name = "REFERENCE|CODE|REPLY",
        required_unless_present = "bounce",
        conflicts_with = "bounce"
    )]
    what: Vec<OsString>,
    /// Read a bounce, a report, or lines of a log from a file; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    bounce: Option<PathBuf>,
}

impl Explain {
    /// Explains it.
    ///
    /// # Errors
    /// [`Failure`]; also when a reference is not known (any more).
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        if let Some(file) = self.bounce {
            return bounce::file(&file, session);
        }
        // A reply pasted without quotes comes as many words; octets that are no text are no reason to refuse it.
        let words: Vec<_> = self.what.iter().map(|word| word.to_string_lossy()).collect();
        let what = words.join(" ");
        if what.trim().is_empty() {
            return Err(Failure::Usage(
                "what is to be explained? A reference such as 4QX7-93KD, a code such as 550-5.7.1, or a whole reply".to_owned(),
            ));
        }
        if let Some(asked) = code::Asked::parse(&what) {
            return code::run(&asked, session);
        }
        if let Some(reference) = refusal::pasted(&what) {
            return refusal::run(&reference.to_string(), session).await;
        }
        if what.trim().contains(char::is_whitespace) {
            // A reply of ours has all that there is to know on record.
            if let Some(reference) = bounce::reference_of_ours(what.as_bytes(), session)
                && let Some(exit) = refusal::run_if_known(reference, session).await?
            {
                return Ok(exit);
            }
            return bounce::run(what.as_bytes(), session);
        }
        refusal::run(what.trim(), session).await
    }
}
