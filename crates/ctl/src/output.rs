//! Results on standard output: tables and words for people, JSON for programs.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use postern_admin::api::Versioned;
use postern_smtp::date::rfc3339;
use serde::Serialize;

use crate::Global;
use crate::advice::Advice;

/// Where results go: standard output, mostly.
pub struct Output {
    writer: Box<dyn Write>,
    /// Whether JSON was asked for.
    pub json: bool,
    /// How text looks.
    pub look: Look,
    /// What commands in text for people need beside their words.
    pub advice: Advice,
}

/// What a command has answered to [`Output::kept`].
#[derive(Debug, Clone, Default)]
pub struct Kept(Rc<RefCell<Vec<u8>>>);

impl Kept {
    /// The answer without its envelope; `None` where there is none.
    pub fn json(&self) -> Option<serde_json::Value> {
        let mut answer: serde_json::Value = serde_json::from_slice(&self.0.borrow()).ok()?;
        answer.as_object_mut()?.remove("version");
        Some(answer)
    }
}

impl Write for Kept {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How text for people looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// With colours.
    pub color: bool,
    /// Columns of the terminal: lines of tables are cut there. `None`: not a terminal.
    pub width: Option<usize>,
}

impl Look {
    /// For pipes and files.
    pub const PLAIN: Self = Self { color: false, width: None };

    /// A word whose meaning a colour supports: green for good, red for bad, yellow for between.
    pub fn paint(self, word: &str) -> Cow<'_, str> {
        if !self.color {
            return word.into();
        }
        let code = match word {
            "accept" | "yes" | "ok" | "delivered" | "closed" => 32,
            "reject" | "failed" | "not ok" | "OPEN" => 31,
            "defer" | "hold" | "held" | "deferred" | "loading" | "doubtful" => 33,
            _ => return word.into(),
        };
        format!("\x1b[{code}m{word}\x1b[0m").into()
    }
}

impl Output {
    /// The output of the process.
    pub fn stdout(global: &Global) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        // https://no-color.org: set and not empty.
        let no_color = global.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let columns = || rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
        let width = terminal.then(columns).flatten().filter(|columns| *columns > 0);
        Self {
            json: global.json,
            look: Look { color: terminal && !no_color, width },
            writer: Box::new(BufWriter::new(stdout.lock())),
            advice: Advice::of(global),
        }
    }

    /// JSON that stays here: for a command that needs the answer of another one.
    pub fn kept() -> (Self, Kept) {
        let kept = Kept::default();
        (
            Self { json: true, look: Look::PLAIN, writer: Box::new(kept.clone()), advice: Advice::default() },
            kept,
        )
    }

    /// Writes a text as it is.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub fn text(&mut self, text: impl Display) -> io::Result<()> {
        write!(self.writer, "{text}")
    }

    /// Writes words of ours for people: the commands in them can be pasted.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn words(&mut self, words: &str) -> io::Result<()> {
        let words = self.advice.in_text(words);
        self.writer.write_all(words.as_bytes())
    }

    /// Writes octets as they are.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn octets(&mut self, octets: &[u8]) -> io::Result<()> {
        self.writer.write_all(octets)
    }

    /// Writes an answer: as JSON in its envelope if that was asked for, else as `human` puts it. The commands in that can be
    /// pasted.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn answer<A: Serialize>(
        &mut self,
        answer: &A,
        human: impl FnOnce(&A, Look) -> String,
    ) -> io::Result<()> {
        self.answer_quoting(answer, |answer, look, advice| advice.in_text(&human(answer, look)).into_owned())
    }

    /// The same where not all words are ours: `human` asks for advice where a command is for this server.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn answer_quoting<A: Serialize>(
        &mut self,
        answer: &A,
        human: impl FnOnce(&A, Look, &Advice) -> String,
    ) -> io::Result<()> {
        match self.json {
            true => writeln!(self.writer, "{}", json(answer)?),
            false => write!(self.writer, "{}", human(answer, self.look, &self.advice)),
        }
    }

    /// Hands over what was written.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// An answer in its versioned envelope.
///
/// # Errors
/// When the answer cannot be written as JSON.
pub fn json(answer: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string(&Versioned::new(answer))?)
}

/// A table without borders. Nothing is wrapped: on a terminal, lines are cut at its edge.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>, look: Look) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).force_no_tty().set_header(header.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell).into_owned()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        let line = line.trim_end();
        text.extend(line.chars().take(look.width.unwrap_or(usize::MAX)));
        text.push('\n');
    }
    text
}

/// Lines of `name  value`, the values below each other, those without a value left out.
pub fn pairs<'a>(indent: &str, pairs: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let given: Vec<(&str, String)> =
        pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let width = given.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): (&str, String)| format!("{indent}{name:width$}  {}\n", clean(&value));
    given.into_iter().map(line).collect()
}

/// A text that others have a hand in, such as a reply: without the control characters that command a terminal.
pub fn clean(text: &str) -> Cow<'_, str> {
    match text.contains(char::is_control) {
        true => text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>().into(),
        false => text.into(),
    }
}

/// A duration in at most two units: `45s`, `3m20s`, `2h5m`, `4d1h`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |number: u64, unit: &str, rest: u64, rest_unit: &str| match rest {
        0 => format!("{number}{unit}"),
        rest => format!("{number}{unit}{rest}{rest_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// How long ago a time was; a time to come is `0s` ago.
pub fn age(time: u64, now: SystemTime) -> String {
    duration(now.duration_since(instant(time)).unwrap_or_default())
}

/// How long until a time: `in 5m`, or `now`.
pub fn until(time: u64, now: SystemTime) -> String {
    match instant(time).duration_since(now) {
        Ok(left) if left.as_secs() > 0 => format!("in {}", duration(Duration::from_secs(left.as_secs()))),
        Ok(_) | Err(_) => "now".to_owned(),
    }
}

/// A time with how long ago it was: `2026-11-21T18:05:25Z (2h5m ago)`.
pub fn past(time: u64, now: SystemTime) -> String {
    format!("{} ({} ago)", rfc3339(instant(time)), age(time, now))
}

/// A time with how long it takes until then.
pub fn future(time: u64, now: SystemTime) -> String {
    format!("{} ({})", rfc3339(instant(time)), until(time, now))
}

/// Seconds since 1970 as a time; one beyond what the clock can hold is 1970.
pub fn instant(seconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}

/// Octets for people: `812 B`, `1.2 KiB`, `34.0 MiB`.
pub fn size(octets: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if octets < 1024 {
        return format!("{octets} B");
    }
    let mut value = octets as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1 message`, `2 messages`.
pub fn counted(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_can_be_kept() {
        let (mut out, kept) = Output::kept();
        assert_eq!(kept.json(), None);
        assert!(out.answer(&serde_json::json!({"outcome": "closed"}), |_, _| String::new()).is_ok());
        assert_eq!(kept.json(), Some(serde_json::json!({"outcome": "closed"})));
    }

    #[test]
    fn durations_have_at_most_two_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (200, "3m20s"), (7500, "2h5m"), (349_200, "4d1h")]
        {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn sizes_are_binary() {
        for (octets, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(size(octets), text);
        }
    }

    #[test]
    fn times_far_off_do_not_panic() {
        assert_eq!(until(u64::MAX, UNIX_EPOCH), "now");
        assert_eq!(age(u64::MAX, UNIX_EPOCH), "0s");
    }

    #[test]
    fn tables_are_aligned_and_cut_at_the_edge_of_a_terminal() {
        let rows =
            [vec!["1".to_owned(), "two".to_owned()], vec!["three".to_owned(), "a\u{1b}[31mb".to_owned()]];
        let text = table(&["A", "LONG"], rows.clone(), Look::PLAIN);
        assert_eq!(text, "A      LONG\n1      two\nthree  a?[31mb\n");
        let text = table(&["A", "LONG"], rows, Look { color: false, width: Some(8) });
        assert_eq!(text, "A      L\n1      t\nthree  a\n");
    }

    #[test]
    fn colours_only_where_they_were_asked_for() {
        assert_eq!(Look::PLAIN.paint("reject"), "reject");
        assert_eq!(Look { color: true, width: None }.paint("reject"), "\x1b[31mreject\x1b[0m");
    }
}
