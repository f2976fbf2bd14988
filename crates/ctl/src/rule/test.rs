//! `rule test`: which rules would take a message that nobody sends.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use postern_admin::api::rules::{RuleTest, TestRules};

use super::list::list_text;
use crate::failure::{Exit, Failure};
use crate::output::Look;
use crate::policy::read_header;
use crate::{Session, filter};

/// A message that does not exist.
#[derive(Debug, Args)]
pub struct TestOptions {
    /// MAIL FROM; '' or '<>' is the null sender.
    #[arg(long, value_name = "ADDRESS")]
    from: String,
    /// RCPT TO; can be given several times.
    #[arg(long, value_name = "ADDRESS", required = true)]
    to: Vec<String>,
    /// The client's address.
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// The login that it comes from.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Its size, such as `10M`.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: Option<u64>,
    /// A file with the message, or its header.
    #[arg(long, value_name = "FILE")]
    message: Option<PathBuf>,
}

pub(super) async fn test(session: &mut Session, options: TestOptions) -> Result<Exit, Failure> {
    let request = TestRules {
        from: options.from,
        to: options.to,
        client: options.client,
        account: options.user,
        size: options.size.unwrap_or(0),
        message: options.message.as_deref().map(|path: &Path| read_header(path)).transpose()?,
    };
    let test: RuleTest = session.client()?.post("/v1/rules/test", &request).await?;
    let now = session.now;
    session.out.answer(&test, |test, look| test_text(test, now, look))?;
    Ok(if test.decides.is_some() { Exit::Finding } else { Exit::Done })
}

fn size(text: &str) -> Result<u64, String> {
    filter::octets(text).ok_or_else(|| format!("{text:?}: write a size, such as 10M"))
}

fn test_text(test: &RuleTest, now: SystemTime, look: Look) -> String {
    let Some(id) = test.decides else {
        return match test.matching.is_empty() {
            true => "no rule takes this message\n".to_owned(),
            false => format!(
                "{}none of them means anything for this message\n",
                list_text(&test.matching, now, look)
            ),
        };
    };
    let place = if test.at_rcpt { "at RCPT" } else { "at the end of the message" };
    format!("{}rule {id} decides, {place}\n", list_text(&test.matching, now, look))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::rule::list::tests::{now, rule};

    #[test]
    fn a_test_names_the_rule_that_decides() {
        let test = |decides, at_rcpt| RuleTest { matching: vec![rule()], decides, at_rcpt };
        assert!(test_text(&test(Some(7), true), now(), Look::PLAIN).ends_with("rule 7 decides, at RCPT\n"));
        assert!(test_text(&test(Some(7), false), now(), Look::PLAIN).ends_with("end of the message\n"));
        assert!(test_text(&test(None, false), now(), Look::PLAIN).contains("none of them"));
        let none = RuleTest { matching: Vec::new(), decides: None, at_rcpt: false };
        assert_eq!(test_text(&none, now(), Look::PLAIN), "no rule takes this message\n");
    }
}
