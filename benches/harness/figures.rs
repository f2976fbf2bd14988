//! Figures: how runs are timed, repeated, compared and printed.

use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// When a run ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After a time; what was begun then is brought to its end and counts.
    Time(Duration),
    /// After so many in all.
    Count(usize),
}

/// What a run gave: how long it was and how long each piece of work took.
#[derive(Debug)]
pub struct Run {
    pub elapsed: Duration,
    /// In order of length.
    latencies: Vec<Duration>,
}

impl Run {
    /// Lets every worker do its work again and again, each in a thread of its own.
    ///
    /// # Errors
    /// The first of the workers'.
    pub fn drive<W: Send>(
        workers: &mut [W],
        until: Until,
        work: impl Fn(&mut W) -> Result<(), String> + Sync,
    ) -> Result<Self, String> {
        let left = AtomicUsize::new(match until {
            Until::Time(_) => usize::MAX,
            Until::Count(count) => count,
        });
        let begin = Instant::now();
        let goes_on = || match until {
            Until::Time(time) => begin.elapsed() < time,
            Until::Count(_) => {
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            }
        };
        let repeat = |worker: &mut W| {
            let mut latencies = Vec::new();
            while goes_on() {
                let begin = Instant::now();
                work(worker)?;
                latencies.push(begin.elapsed());
            }
            Ok::<_, String>(latencies)
        };
        let results: Vec<Result<Vec<Duration>, String>> = std::thread::scope(|scope| {
            let repeat = &repeat;
            let threads: Vec<_> =
                workers.iter_mut().map(|worker| scope.spawn(move || repeat(worker))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or(Err("a worker panicked".into())))
                .collect()
        });
        let elapsed = begin.elapsed();
        let mut latencies = results.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
        latencies.sort_unstable();
        Ok(Self { elapsed, latencies })
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.latencies.len()
    }

    /// The time that this share of the pieces of work did not exceed, in milliseconds.
    pub fn percentile(&self, share: f64) -> f64 {
        let at = (self.latencies.len() as f64 * share) as usize;
        let latency = self.latencies.get(at.min(self.latencies.len().saturating_sub(1)));
        latency.copied().unwrap_or_default().as_secs_f64() * 1e3
    }

    /// Its figures, and what it cost.
    pub fn sample(&self, cpu: Option<Duration>, syncs: Option<u64>) -> Sample {
        let messages = self.count() as f64;
        Sample {
            rate: messages / self.elapsed.as_secs_f64(),
            p50: self.percentile(0.5),
            p99: self.percentile(0.99),
            cpu: cpu.map(|cpu| cpu.as_secs_f64() * 1000.0 / messages),
            syncs: syncs.map(|syncs| syncs as f64 / messages),
        }
    }
}

/// The figures of one run.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Messages a second.
    pub rate: f64,
    /// Milliseconds that half of them did not exceed.
    pub p50: f64,
    /// That all but one of a hundred did not exceed.
    pub p99: f64,
    /// Processor seconds for 1,000 messages.
    pub cpu: Option<f64>,
    /// Calls that made something durable, for each message.
    pub syncs: Option<f64>,
}

impl Sample {
    /// Figure by figure.
    pub fn median(samples: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(samples.iter().map(figure).collect());
        let of_some = |figure: fn(&Self) -> Option<f64>| {
            samples.iter().map(figure).collect::<Option<Vec<f64>>>().map(median)
        };
        Self {
            rate: of(|s| s.rate),
            p50: of(|s| s.p50),
            p99: of(|s| s.p99),
            cpu: of_some(|s| s.cpu),
            syncs: of_some(|s| s.syncs),
        }
    }
}

/// The one in the middle; of two the lower.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// The median of what each repetition gave in proportion to the same repetition of another: the disk of a shared machine is
/// not the same from one minute to the next.
pub fn ratio(ours: &[Sample], theirs: &[Sample], figure: fn(&Sample) -> f64) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| figure(ours) / figure(theirs)).collect())
}

/// One who is measured.
pub struct Contender<'a> {
    pub name: &'static str,
    pub run: Box<dyn FnMut() -> Result<Sample, String> + 'a>,
}

/// The runs of one contender, or why there are none.
pub struct Outcome {
    pub name: &'static str,
    pub samples: Result<Vec<Sample>, String>,
}

/// Lets the contenders run in turn, again and again. One that fails is not asked again.
pub fn in_turn(repetitions: usize, mut contenders: Vec<Contender<'_>>) -> Vec<Outcome> {
    let new = |contender: &Contender<'_>| Outcome { name: contender.name, samples: Ok(Vec::new()) };
    let mut outcomes: Vec<Outcome> = contenders.iter().map(new).collect();
    for _ in 0..repetitions {
        for (contender, outcome) in contenders.iter_mut().zip(&mut outcomes) {
            let Ok(samples) = &mut outcome.samples else { continue };
            match (contender.run)() {
                Ok(sample) => samples.push(sample),
                Err(problem) => outcome.samples = Err(problem),
            }
        }
    }
    outcomes
}

/// A table, row by row as they are known, in the form of Markdown.
#[derive(Debug)]
pub struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// Prints a title and the head, for columns of figures.
    pub fn begin(title: &str, head: &[&str]) -> Self {
        const FIGURE: usize = 8;
        let columns: Vec<(&str, usize)> = head.iter().map(|word| (*word, FIGURE)).collect();
        Self::begin_with(title, &columns)
    }

    /// The same with columns of at least these widths.
    pub fn begin_with(title: &str, columns: &[(&str, usize)]) -> Self {
        println!("\n{title}\n");
        let table = Self { widths: columns.iter().map(|(word, least)| word.len().max(*least)).collect() };
        table.row(&columns.iter().map(|(word, _)| *word).collect::<Vec<_>>());
        let lines: Vec<String> = table.widths.iter().map(|width| "-".repeat(*width)).collect();
        table.row(&lines);
        table
    }

    /// Prints a row.
    pub fn row<T: Display>(&self, cells: &[T]) {
        let cells = cells.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:<width$}"));
        println!("| {} |", cells.collect::<Vec<_>>().join(" | "));
    }
}

/// A figure in a table.
pub fn cell(value: impl Into<Option<f64>>) -> String {
    match value.into() {
        None => "-".to_owned(),
        Some(value) if !value.is_finite() => "-".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.3}"),
    }
}

/// Octets in MiB.
pub fn mebibytes(octets: u64) -> String {
    format!("{:.1}", octets as f64 / (1024.0 * 1024.0))
}
