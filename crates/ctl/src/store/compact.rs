//! `store compact`: room that is given back now.

use postern_admin::api::store::{CompactRequest, Compacted};
use serde::Serialize;

use super::Reason;
use super::work::ask;
use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output;

/// A compaction for people and programs.
#[derive(Debug, Serialize)]
struct GivenBack {
    #[serde(flatten)]
    compacted: Compacted,
    /// Octets that the spool takes less than before.
    given_back: u64,
}

pub(super) async fn compact(session: &mut Session, options: Reason) -> Result<Exit, Failure> {
    let request = CompactRequest { reason: options.reason };
    let compacted = ask::<Compacted>(session, "/v1/store/compact", &request).await?.answer;
    let answer = GivenBack { compacted, given_back: compacted.given_back() };
    session.out.answer(&answer, |answer, _| compacted_text(answer))?;
    Ok(Exit::Done)
}

fn compacted_text(answer: &GivenBack) -> String {
    let Compacted { before, after } = answer.compacted;
    let change = |before: u64, after: u64| format!("{} -> {}", output::size(before), output::size(after));
    let text = output::pairs(
        "  ",
        [
            ("segments", Some(format!("{} -> {}", before.segments, after.segments))),
            ("log", Some(change(before.log, after.log))),
            ("large messages", Some(change(before.large, after.large))),
            ("free on the disk", Some(change(before.free, after.free))),
        ],
    );
    format!("given back: {}\n{text}", output::size(answer.given_back))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_admin::api::store::Usage;

    use super::*;

    #[test]
    fn a_compaction_says_what_was_given_back() {
        let before = Usage { segments: 5, log: 5 << 20, large: 0, free: 1 << 30 };
        let after = Usage { segments: 2, log: 2 << 20, large: 0, free: (1 << 30) + (3 << 20) };
        let compacted = Compacted { before, after };
        let text = compacted_text(&GivenBack { compacted, given_back: compacted.given_back() });
        assert!(text.starts_with("given back: 3.0 MiB\n  segments          5 -> 2\n"), "{text}");
    }
}
