//! Counters and gauges of sessions.

use postern_config::ListenerKind;
use postern_smtp::{Reply, ReplyClass};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// What an operator alerts on: connections, refusals, failed logins, failed handshakes, accepted mail.
#[derive(Debug, Clone)]
pub struct Metrics {
    connections: IntCounterVec,
    turned_away: IntCounterVec,
    sessions: IntGaugeVec,
    replies: [IntCounter; 4],
    refusals: IntCounterVec,
    logins: IntCounterVec,
    handshakes: IntCounterVec,
    messages: IntCounterVec,
    octets: IntCounterVec,
    recipients: IntCounterVec,
    early_talkers: IntCounterVec,
    timeouts: IntCounterVec,
    /// Octets in the buffers of sessions.
    pub(crate) buffers: IntGauge,
    /// Sessions whose answer is kept back.
    pub(crate) delayed: IntGauge,
    stress: IntGauge,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When they are registered twice.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let sessions = Opts::new("postern_smtp_sessions", "Sessions open now, by listener");
        let sessions = IntGaugeVec::new(sessions, &["listener"])?;
        registry.register(Box::new(sessions.clone()))?;
        let replies = counter("postern_smtp_replies_total", "Replies sent, by the first digit", &["class"])?;
        let by_listener = &["listener"];
        Ok(Self {
            connections: counter("postern_smtp_connections_total", "Connections accepted", by_listener)?,
            turned_away: counter(
                "postern_smtp_connections_refused_total",
                "Connections answered with 421 because of a limit, by the limit that was reached",
                &["listener", "limit"],
            )?,
            sessions,
            replies: ["2", "3", "4", "5"].map(|class| replies.with_label_values(&[class])),
            refusals: counter(
                "postern_smtp_refusals_total",
                "Senders, recipients and messages refused, by reply code, enhanced status code and reason",
                &["code", "status", "reason"],
            )?,
            logins: counter("postern_smtp_logins_total", "Logins by result", &["result"])?,
            handshakes: counter(
                "postern_smtp_tls_handshakes_total",
                "TLS handshakes by result",
                &["result"],
            )?,
            messages: counter("postern_smtp_accepted_messages_total", "Messages accepted", by_listener)?,
            octets: counter(
                "postern_smtp_accepted_octets_total",
                "Octets of accepted messages",
                by_listener,
            )?,
            recipients: counter(
                "postern_smtp_accepted_recipients_total",
                "Final recipients accepted",
                by_listener,
            )?,
            early_talkers: counter(
                "postern_smtp_early_talkers_total",
                "Clients that talked before the greeting, by what became of them",
                &["action"],
            )?,
            timeouts: counter(
                "postern_smtp_timeouts_total",
                "Sessions ended with 421 4.4.2, by the reason",
                &["reason"],
            )?,
            buffers: gauge("postern_smtp_buffer_octets", "Memory that the buffers of all sessions take")?,
            delayed: gauge("postern_smtp_delayed_sessions", "Sessions whose answer is kept back")?,
            stress: gauge("postern_smtp_stress", "1 while nearly all places for sessions are taken")?,
        })
    }

    /// A connection was accepted; the session counts as open until the guard is dropped.
    pub(crate) fn connected(&self, listener: ListenerKind) -> OpenSession {
        self.connections.with_label_values(&[listener.as_str()]).inc();
        let sessions = self.sessions.with_label_values(&[listener.as_str()]);
        sessions.inc();
        OpenSession(sessions)
    }

    pub(crate) fn turned_away(&self, listener: ListenerKind, limit: &'static str) {
        self.turned_away.with_label_values(&[listener.as_str(), limit]).inc();
    }

    pub(crate) fn talked_early(&self, action: &'static str) {
        self.early_talkers.with_label_values(&[action]).inc();
    }

    pub(crate) fn timed_out(&self, reason: &'static str) {
        self.timeouts.with_label_values(&[reason]).inc();
    }

    pub(crate) fn stressed(&self, is_on: bool) {
        self.stress.set(is_on.into());
    }

    pub(crate) fn replied(&self, reply: &Reply) {
        let class = match reply.class() {
            ReplyClass::Success => 0,
            ReplyClass::Intermediate => 1,
            ReplyClass::Transient => 2,
            ReplyClass::Permanent => 3,
        };
        self.replies[class].inc();
    }

    pub(crate) fn refused(&self, reply: &Reply, reason: &'static str) {
        let status = reply.status.map(|status| status.to_string()).unwrap_or_default();
        self.refusals.with_label_values(&[reply.code.to_string().as_str(), &status, reason]).inc();
    }

    pub(crate) fn login(&self, result: &'static str) {
        self.logins.with_label_values(&[result]).inc();
    }

    pub(crate) fn handshake(&self, result: &'static str) {
        self.handshakes.with_label_values(&[result]).inc();
    }

    pub(crate) fn accepted(&self, listener: ListenerKind, octets: u64, recipients: usize) {
        let labels = [listener.as_str()];
        self.messages.with_label_values(&labels).inc();
        self.octets.with_label_values(&labels).inc_by(octets);
        self.recipients.with_label_values(&labels).inc_by(recipients as u64);
    }
}

/// One open session in the gauge.
#[derive(Debug)]
pub(crate) struct OpenSession(prometheus::IntGauge);

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_smtp::EnhancedStatus;

    use super::*;

    #[test]
    fn a_session_is_counted_while_it_is_open() {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let open = metrics.connected(ListenerKind::Mx);
        let gauge = metrics.sessions.with_label_values(&["mx"]);
        assert_eq!(gauge.get(), 1);
        drop(open);
        assert_eq!((gauge.get(), metrics.connections.with_label_values(&["mx"]).get()), (0, 1));
    }

    #[test]
    fn refusals_are_counted_by_both_codes_and_the_reason() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        metrics.refused(&Reply::new(550, EnhancedStatus::new(5, 1, 1), "no"), "unknown-recipient");
        let counter = metrics.refusals.with_label_values(&["550", "5.1.1", "unknown-recipient"]);
        assert_eq!(counter.get(), 1);
        assert!(Metrics::register(&registry).is_err());
    }
}
