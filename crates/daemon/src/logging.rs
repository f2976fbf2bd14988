//! The log: events of `tracing`, as text or JSON, to standard error.
//!
//! A thread of its own writes, so that no session waits for a slow terminal; when it falls far behind, the sessions wait
//! rather than lose an event.

mod line;

use std::io::BufWriter;

use postern_config::Log;
use postern_config::log::LogFormat;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use line::OneLine;
pub(crate) use line::one_line;

/// Octets of the log that are written at once under load.
const WRITE_AT_ONCE: usize = 64 * 1024;

/// Keeps the writing thread alive, and can change the level. Dropping it writes what waits.
#[derive(Debug)]
pub struct LogHandle {
    _writer: WorkerGuard,
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogHandle {
    /// Takes a new level or filter into use.
    ///
    /// # Errors
    /// When it cannot be parsed; the old one stays.
    pub fn set_level(&self, level: &str) -> Result<(), ParseError> {
        let filter = EnvFilter::try_new(level)?;
        // Fails only when the subscriber is gone, and then nobody logs.
        let _ = self.filter.reload(filter);
        Ok(())
    }
}

/// Whether a level or filter can be used.
///
/// # Errors
/// What is wrong with it.
pub fn check_level(level: &str) -> Result<(), ParseError> {
    EnvFilter::try_new(level).map(drop)
}

/// Starts the log for this process.
///
/// # Errors
/// When `log.level` cannot be parsed.
pub fn start(config: &Log) -> Result<LogHandle, ParseError> {
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(&config.level)?);
    // The writing thread flushes when nothing waits: under load many lines go out in one write.
    let stderr = BufWriter::with_capacity(WRITE_AT_ONCE, std::io::stderr());
    let (writer, guard) = NonBlockingBuilder::default().lossy(false).finish(stderr);
    let layer = match config.format {
        LogFormat::Text => {
            fmt::layer().fmt_fields(OneLine).with_writer(writer).with_ansi(false).with_target(false).boxed()
        }
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_target(false)
            .with_writer(writer)
            .boxed(),
    };
    // Fails when a log was started before in this process, which then goes on.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
    Ok(LogHandle { _writer: guard, filter: handle })
}
