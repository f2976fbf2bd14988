//! One event, one line of text: `key=value`, with quotes around what has blanks in it.

use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Writes the fields of an event: its message as it is, then each field. Nothing of a value can end the line.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OneLine;

impl<'w> FormatFields<'w> for OneLine {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line { writer, scratch: String::new(), is_first: true, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'w> {
    writer: Writer<'w>,
    /// Where a value is written that must be looked at before it goes into the line.
    scratch: String,
    is_first: bool,
    result: fmt::Result,
}

impl Line<'_> {
    fn write(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.result.is_err() {
            return;
        }
        let gap = if std::mem::take(&mut self.is_first) { "" } else { " " };
        self.result = match field.name() {
            "message" => write!(self.writer, "{gap}{value}"),
            name => write!(self.writer, "{gap}{name}={value}"),
        };
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.write(field, format_args!("{}", Escaped(value))),
            _ => self.write(field, format_args!("{value:?}")),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.write(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.write(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write(field, format_args!("{value}"));
    }

    /// What was written with `%` or `?`.
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = std::mem::take(&mut self.scratch);
        text.clear();
        self.result = self.result.and_then(|()| write!(text, "{value:?}"));
        match field.name() {
            "message" => self.write(field, format_args!("{}", Escaped(&text))),
            _ if is_plain(&text) || is_quoted(&text) => self.write(field, format_args!("{text}")),
            _ => self.write(field, format_args!("{text:?}")),
        }
        self.scratch = text;
    }
}

/// A text without what ends a line, or commands a terminal.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Between two control characters the text goes in one piece.
        let mut rest = self.0.trim_end();
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| c.is_control()) {
            write!(f, "{}{}", &rest[..at], c.escape_debug())?;
            rest = &rest[at + c.len_utf8()..];
        }
        f.write_str(rest)
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"')
}

/// Whether it is one text in quotes already.
fn is_quoted(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return false };
    let mut is_escaped = false;
    for c in inner.chars() {
        match c {
            '"' if !is_escaped => return false,
            c if c.is_control() => return false,
            c => is_escaped = c == '\\' && !is_escaped,
        }
    }
    !is_escaped
}

/// The problems of a configuration in one line: where, what, and what to do, without the lines of the file.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for part in text.lines().map(str::trim).filter(|part| !part.is_empty() && !is_of_file(part)) {
        // Writing to a string cannot fail.
        let _ = match part.strip_prefix("= help: ") {
            Some(help) => write!(line, " ({help})"),
            None if line.is_empty() => write!(line, "{part}"),
            None => write!(line, "; {part}"),
        };
    }
    line
}

/// `12 | hostnam = "x"` and `| ^^^^^^^`.
fn is_of_file(part: &str) -> bool {
    part.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start().starts_with("| ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(octets)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn an_event_is_one_line_whose_values_can_be_told_apart() {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(OneLine)
            .with_writer(kept.clone())
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let error = std::io::Error::other("no such file\nor folder");
            tracing::warn!(event = "x", client = %"192.0.2.1", why = %"a \"b\" c", quoted = ?"d e", %error, "two\nlines");
            tracing::info!(event = "y", none = %"", list = ?["a"], octets = 7, is_new = true, "said");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let expected = concat!(
            " WARN two\\nlines event=\"x\" client=192.0.2.1 why=\"a \\\"b\\\" c\" quoted=\"d e\" ",
            "error=\"no such file\\nor folder\"\n",
            " INFO said event=\"y\" none=\"\" list=\"[\\\"a\\\"]\" octets=7 is_new=true\n",
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_configuration_that_does_not_load_is_told_in_one_line() {
        let text = "/p.toml:1:1: error: unknown key `hostnam`\n   1 | hostnam = \"x\"\n     | ^^^^^^^\n     = help: did you mean \
                    `hostname`?\n/p.toml: error: `hostname` is missing\n";
        let expected = "/p.toml:1:1: error: unknown key `hostnam` (did you mean `hostname`?); /p.toml: error: `hostname` is missing";
        assert_eq!(one_line(text), expected);
        assert_eq!(one_line("no such file"), "no such file");
    }
}
