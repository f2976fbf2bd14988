//! `status` and `reload`.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use postern_admin::api::dns::DnsTrouble;
use postern_admin::api::load::Load;
use postern_admin::api::{ProblemKind, Reloaded, Status, Summary};
use postern_admin::{Client, ClientError};

use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output::{self, Look};

/// Shows how the server is; a [`Exit::Finding`] if it is not well.
///
/// # Errors
/// When the daemon does not answer.
pub async fn status(session: &mut Session) -> Result<Exit, Failure> {
    let (client, _) = session.client_despite_errors()?;
    let status: Status = client.get("/v1/status").await?;
    let now = session.now;
    session.out.answer(&status, |status, look| text(status, now, look))?;
    Ok(if is_well(&status) { Exit::Done } else { Exit::Finding })
}

/// Has the configuration read again.
///
/// # Errors
/// When the daemon does not answer, or keeps its old configuration.
pub async fn reload(session: &mut Session) -> Result<Exit, Failure> {
    let (client, is_guess) = session.client_despite_errors()?;
    if is_guess {
        is_meant(&client, &session.global.config).await?;
    }
    let reloaded = client.post("/v1/reload", &serde_json::json!({})).await;
    let reloaded: Reloaded = reloaded.map_err(|error| match error {
        ClientError::Refused(problem) if problem.kind == ProblemKind::ReloadFailed => refused(&problem.error),
        error => error.into(),
    })?;
    session.out.answer(&reloaded, |reloaded, _| reload_text(reloaded))?;
    Ok(Exit::Done)
}

/// What is wrong comes with its place, as editors read it.
fn refused(problem: &str) -> Failure {
    let problem = problem.trim_end();
    Failure::Finding(format!("the daemon refused it, and the old configuration stays in force\n{problem}"))
}

/// At a place that was guessed there may be the daemon of another configuration.
async fn is_meant(client: &Client, ours: &Path) -> Result<(), Failure> {
    let status: Status = client.get("/v1/status").await?;
    let theirs = Path::new(&status.configuration);
    if is_same_file(ours, theirs) {
        return Ok(());
    }
    Err(Failure::Finding(format!(
        "nothing was reloaded: the daemon at {} runs with {}, not with {}\n  Name the one that is meant with --socket PATH.",
        client.socket().display(),
        theirs.display(),
        ours.display()
    )))
}

/// A file that may not be looked at is known by its name. The folder that a daemon was started in is not known: of a path that
/// begins there, the last part must do.
fn is_same_file(ours: &Path, theirs: &Path) -> bool {
    match (ours.canonicalize(), theirs.canonicalize()) {
        _ if theirs.is_relative() => ours.file_name() == theirs.file_name(),
        (Ok(ours), Ok(theirs)) => ours == theirs,
        _ => ours == theirs,
    }
}

/// Also a server that accepts mail is not well while none of it gets on.
fn is_well(status: &Status) -> bool {
    status.health.ok && status.dns.is_none()
}

fn text(status: &Status, now: SystemTime, look: Look) -> String {
    let queue = &status.queue;
    let health = look.paint(match (status.loading, is_well(status)) {
        (Some(_), _) => "loading",
        (None, true) => "ok",
        (None, false) => "not ok",
    });
    let queue_text = status.loading.is_none().then(|| queue_text(queue));
    let listeners: Vec<String> =
        status.listeners.iter().map(|l| format!("{} {}", l.kind, l.address)).collect();
    let damaged =
        (queue.damaged > 0).then(|| format!("{} set aside", output::counted(queue.damaged, "record")));
    let mut text =
        format!("{health}  {} (postern {}, process {})\n", status.hostname, status.release, status.pid);
    text += &output::pairs(
        "  ",
        [
            ("started", Some(output::past(status.started, now))),
            ("configuration", Some(status.configuration.clone())),
            ("listeners", Some(listeners.join(", ")).filter(|list| !list.is_empty())),
            ("sessions", (!status.smtp.is_unknown()).then(|| load_text(&status.smtp))),
            ("queue", queue_text),
            ("oldest", queue.oldest.map(|seconds| output::duration(Duration::from_secs(seconds)))),
            ("damaged", damaged),
            ("rules", rules_text(status, now)),
        ],
    );
    for reason in &status.health.reasons {
        let _ = writeln!(text, "problem: {}", output::clean(reason));
    }
    if let Some(trouble) = &status.dns {
        let _ = writeln!(text, "problem: {}", output::clean(&dns_text(trouble, &status.hostname, now)));
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "warning: {}", output::clean(warning));
    }
    text
}

fn dns_text(trouble: &DnsTrouble, hostname: &str, now: SystemTime) -> String {
    let asked = match trouble.servers.first().and_then(|server| server.rsplit_once(':')) {
        Some((ip, port)) => format!("`dig @{} -p {port} {hostname}`", ip.trim_matches(['[', ']'])),
        None => format!("`dig {hostname}`"),
    };
    let (servers, problem) = (trouble.servers.join(", "), &trouble.problem);
    let (failed, since) = (output::counted(trouble.failed, "lookup"), output::past(trouble.since, now));
    format!(
        "DNS does not answer: {failed} failed since {since}, the last one: {problem}. Mail is accepted, and what goes to other \
         servers waits. Asked: {servers}. Try {asked}; then mend that name server, or name another (resolver.nameservers, or \
         /etc/resolv.conf where there are none) and `posternctl reload`"
    )
}

fn queue_text(queue: &Summary) -> String {
    format!(
        "{}, {} ({} ready, {} active, {} deferred, {} held)",
        output::counted(queue.messages, "message"),
        output::size(queue.octets),
        queue.ready,
        queue.active,
        queue.deferred,
        queue.held,
    )
}

fn load_text(load: &Load) -> String {
    let stress = if load.stressed { "; under stress: clients have less time" } else { "" };
    let (buffers, most) = (output::size(load.buffers), output::size(load.max_buffers));
    format!("{} of {}, buffers {buffers} of {most}{stress}", load.sessions, load.max_sessions)
}

/// Rules decide about mail that nobody looks at: they are named wherever somebody looks.
fn rules_text(status: &Status, now: SystemTime) -> Option<String> {
    let rules = &status.rules;
    let counts: Vec<String> =
        rules.in_force.iter().map(|(action, number)| format!("{number} {action}")).collect();
    let end = rules.next_end.map(|end| format!("; the next ends {}", output::until(end, now)));
    (!rules.is_empty()).then(|| {
        let all: usize = rules.in_force.values().sum();
        format!("{all} in force ({}){}", counts.join(", "), end.unwrap_or_default())
    })
}

fn reload_text(reloaded: &Reloaded) -> String {
    let mut text = format!("reloaded {}\n", reloaded.configuration);
    for setting in &reloaded.needs_restart {
        let _ = writeln!(text, "after a restart only: {}", output::clean(setting));
    }
    for warning in &reloaded.warnings {
        let _ = writeln!(text, "warning: {}", output::clean(warning));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::UNIX_EPOCH;

    use postern_admin::api::rules::RuleTotals;
    use postern_admin::api::{Health, ListenerView};

    use super::*;

    fn status() -> Status {
        Status {
            release: "0.1.0".to_owned(),
            pid: 4711,
            hostname: "mail.proseware.test".to_owned(),
            configuration: "/etc/postern/postern.toml".to_owned(),
            started: 1_795_284_325,
            listeners: vec![ListenerView { kind: "mx".to_owned(), address: "0.0.0.0:25".to_owned() }],
            loading: None,
            queue: Summary {
                messages: 3,
                ready: 1,
                active: 0,
                deferred: 1,
                held: 1,
                octets: 5000,
                oldest: Some(7500),
                store_error: None,
                damaged: 0,
                oldest_attempt: None,
            },
            health: Health { ok: false, reasons: vec!["the queue is full: 3 messages".to_owned()] },
            warnings: vec!["tls.key: others may read it".to_owned()],
            rules: RuleTotals::default(),
            smtp: Load::default(),
            dns: None,
        }
    }

    #[test]
    fn dns_that_does_not_answer_is_a_problem_and_says_what_to_try() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_284_325 + 180);
        let trouble = DnsTrouble {
            servers: vec!["192.0.2.53:53".to_owned(), "[2001:db8::53]:53".to_owned()],
            failed: 12,
            since: 1_795_284_325,
            problem: "request timed out".to_owned(),
        };
        let health = Health { ok: true, reasons: Vec::new() };
        let status = Status { health, dns: Some(trouble), ..status() };
        assert!(!is_well(&status));
        let shown = text(&status, now, Look::PLAIN);
        assert!(shown.starts_with("not ok  "), "{shown}");
        let line = "problem: DNS does not answer: 12 lookups failed since 2026-11-21T18:05:25Z (3m ago), the last one: request timed out. ";
        assert!(shown.contains(line), "{shown}");
        assert!(
            shown.contains(
                "Asked: 192.0.2.53:53, [2001:db8::53]:53. Try `dig @192.0.2.53 -p 53 mail.proseware.test`;"
            ),
            "{shown}"
        );
        assert!(output::json(&status).unwrap().contains(r#""dns":{"servers":["192.0.2.53:53","#));
    }

    #[test]
    fn sessions_and_stress_are_shown() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_284_325);
        let smtp = Load {
            sessions: 850,
            max_sessions: 1000,
            stressed: true,
            buffers: 24 << 20,
            max_buffers: 128 << 20,
        };
        let text = text(&Status { smtp, ..status() }, now, Look::PLAIN);
        let line = "sessions       850 of 1000, buffers 24.0 MiB of 128.0 MiB; under stress: clients have less time\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn status_for_people() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_284_325 + 3600);
        let expected = "\
not ok  mail.proseware.test (postern 0.1.0, process 4711)
  started        2026-11-21T18:05:25Z (1h ago)
  configuration  /etc/postern/postern.toml
  listeners      mx 0.0.0.0:25
  queue          3 messages, 4.9 KiB (1 ready, 0 active, 1 deferred, 1 held)
  oldest         2h5m
problem: the queue is full: 3 messages
warning: tls.key: others may read it
";
        assert_eq!(text(&status(), now, Look::PLAIN), expected);
    }

    #[test]
    fn a_queue_that_is_being_loaded_is_not_shown_as_empty() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_284_325 + 2);
        let reasons = vec!["the queue is being loaded: 250000 messages so far".to_owned()];
        let health = Health { ok: false, reasons };
        let status = Status {
            loading: Some(250_000),
            queue: Summary::default(),
            health,
            warnings: Vec::new(),
            ..status()
        };
        let expected = "\
loading  mail.proseware.test (postern 0.1.0, process 4711)
  started        2026-11-21T18:05:25Z (2s ago)
  configuration  /etc/postern/postern.toml
  listeners      mx 0.0.0.0:25
problem: the queue is being loaded: 250000 messages so far
";
        assert_eq!(text(&status, now, Look::PLAIN), expected);
        assert!(output::json(&status).unwrap().contains(r#","loading":250000,"queue":{"messages":0,"#));
    }

    #[test]
    fn rules_in_force_are_shown() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_284_325);
        let in_force = [("hold".to_owned(), 2), ("reject".to_owned(), 1)].into();
        let rules = RuleTotals { in_force, next_end: Some(1_795_284_325 + 7200) };
        let text = text(&Status { rules, ..status() }, now, Look::PLAIN);
        assert!(
            text.contains("rules          3 in force (2 hold, 1 reject); the next ends in 2h\n"),
            "{text}"
        );
    }

    #[test]
    fn status_for_programs() {
        let expected = concat!(
            r#"{"version":1,"release":"0.1.0","pid":4711,"hostname":"mail.proseware.test","#,
            r#""configuration":"/etc/postern/postern.toml","started":1795284325,"#,
            r#""listeners":[{"kind":"mx","address":"0.0.0.0:25"}],"#,
            r#""queue":{"messages":3,"ready":1,"active":0,"deferred":1,"held":1,"octets":5000,"oldest":7500,"#,
            r#""store_error":null,"damaged":0},"#,
            r#""health":{"ok":false,"reasons":["the queue is full: 3 messages"]},"#,
            r#""warnings":["tls.key: others may read it"]}"#
        );
        assert_eq!(output::json(&status()).unwrap(), expected);
    }

    #[test]
    fn a_reload_names_what_waits_for_a_restart() {
        let reloaded = Reloaded {
            configuration: "/etc/postern/postern.toml".to_owned(),
            warnings: Vec::new(),
            needs_restart: vec!["queue.path".to_owned()],
        };
        assert_eq!(
            reload_text(&reloaded),
            "reloaded /etc/postern/postern.toml\nafter a restart only: queue.path\n"
        );
    }
}
