//! The DNS of our domains: what is known of it, and looking it up now.

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use postern_policy::verification;
use postern_smtp::Domain;

use crate::Shared;
use crate::api::domains::{DomainList, DomainView, VerifyDomains};
use crate::api::{AuditEvent, ProblemKind};
use crate::rights::Writer;
use crate::server::{Answer, App, Failure, Input, answer, failure};

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/v1/domains", get(list)).route("/v1/domains/verify", post(verify))
}

async fn list(State(shared): State<Shared>) -> Answer<DomainList> {
    let domains: Vec<Domain> =
        shared.config.load().domains.iter().map(|domain| domain.name.clone()).collect();
    answer(views(&shared, &domains))
}

fn views(shared: &Shared, domains: &[Domain]) -> DomainList {
    let policy = shared.policy.load();
    let view = |domain: &Domain| {
        let report = policy.standing.sender_domains.report(domain);
        let missing = (report.state != verification::State::Verified).then(|| report.missing());
        DomainView { name: domain.to_string(), missing, report: (*report).clone() }
    };
    DomainList {
        require_verified: policy.senders.require_verified,
        domains: domains.iter().map(view).collect(),
    }
}

/// What changes is the state of the domain, and with it who may send.
async fn verify(
    State(app): State<App>,
    Writer(peer): Writer,
    Input(request): Input<VerifyDomains>,
) -> Answer<DomainList> {
    let domains = asked_for(&app.shared, &request)?;
    let before = views(&app.shared, &domains);
    app.shared.daemon.verify(domains.clone()).await;
    let after = views(&app.shared, &domains);
    let states = before.domains.iter().zip(&after.domains);
    let changed = states.filter(|(before, after)| before.report.state != after.report.state).count();
    let event = AuditEvent {
        object: Some(if request.all { "all domains".to_owned() } else { request.domains.join(" ") }),
        matched: domains.len(),
        changed,
        ..AuditEvent::new("domain-verify", peer.uid)
    };
    app.audit.note(event).await;
    answer(after)
}

fn asked_for(shared: &Shared, request: &VerifyDomains) -> Result<Vec<Domain>, Failure> {
    let config = shared.config.load();
    if request.all != request.domains.is_empty() {
        return Err(failure(ProblemKind::BadRequest, "which domains? Give their names, or `all`"));
    }
    if request.all {
        return Ok(config.domains.iter().map(|domain| domain.name.clone()).collect());
    }
    let find = |name: &String| {
        let domain = Domain::parse_tolerant(name)
            .map_err(|error| failure(ProblemKind::BadRequest, format!("{name:?} is no domain: {error}")))?;
        match config.domains.iter().any(|known| known.name == domain) {
            true => Ok(domain),
            false => Err(failure(ProblemKind::NotFound, format!("there is no [[domain]] {domain}"))),
        }
    };
    request.domains.iter().map(find).collect()
}
