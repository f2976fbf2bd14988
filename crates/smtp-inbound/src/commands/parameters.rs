//! Which parameters of MAIL and RCPT a client may use: those of extensions that it was offered.

use std::time::Duration;

use postern_config::smtp::{OfferBinaryMime, OfferDsn, OfferRequireTls};
use postern_queue::{DeliverBy, Late, Terms};
use postern_smtp::command::{MailParameters, RcptParameters};
use postern_smtp::{Body, Hold};

use crate::replies;
use crate::session::{Context, Refusal};

/// Whether DSN is offered (RFC 3461). Whoever can use a submission listener has a login, or soon will.
pub(crate) fn offers_dsn(context: &Context) -> bool {
    match context.config.smtp.dsn {
        OfferDsn::Everyone => true,
        OfferDsn::Known => context.peer.listener.is_submission() || context.is_trusted(),
        OfferDsn::Nobody => false,
    }
}

/// Whether FUTURERELEASE is offered: to whom submits (RFC 4865 §3).
pub(crate) fn offers_hold(context: &Context) -> bool {
    context.peer.listener.is_submission() && !context.config.smtp.max_hold.is_zero()
}

/// Whether MT-PRIORITY is offered: strangers must not overtake others (RFC 6710 §8).
pub(crate) fn offers_priority(context: &Context) -> bool {
    context.peer.listener.is_submission() || context.is_trusted()
}

/// Whether DELIVERBY is offered: to whom submits and to trusted networks, as far as they may ask for reports. A message with
/// a time ends in a report wherever the next host does not know the extension, so a stranger could have one sent to any
/// address that he names as the sender.
pub(crate) fn offers_deliver_by(context: &Context) -> bool {
    (context.peer.listener.is_submission() || context.is_trusted()) && offers_dsn(context)
}

/// Whether REQUIRETLS is offered: only under TLS (RFC 8689 §2).
pub(crate) fn offers_require_tls(context: &Context) -> bool {
    context.config.smtp.require_tls == OfferRequireTls::On && context.tls.is_some()
}

/// Whether BINARYMIME is offered (RFC 3030 §3).
pub(crate) fn offers_binary_mime(context: &Context) -> bool {
    context.config.smtp.binary_mime == OfferBinaryMime::On
}

/// The one value of BODY that is of an extension of its own, with its keyword: as it is named to the client.
const BINARY_BODY: &str = "BODY=BINARYMIME";

/// What the parameters of MAIL demand of every server on the way, as far as it is granted.
///
/// # Errors
/// A time that is too far ahead, or too near.
pub(crate) fn terms(context: &Context, wanted: &MailParameters) -> Result<Terms, Refusal> {
    let now = context.shared.clock.now();
    let limits = &context.config.smtp;
    let release = wanted.hold.map(|hold| match hold {
        Hold::For(time) => now + time,
        Hold::Until(time) => time,
    });
    if release.is_some_and(|release| release > now + limits.max_hold) {
        return Err(Refusal::new("held-too-long", replies::held_too_long(limits.max_hold)));
    }
    let shortest = limits.min_deliver_by;
    if wanted.by.is_some_and(|by| by.returns && by.seconds.unsigned_abs() < shortest.as_secs()) {
        return Err(Refusal::new("too-urgent", replies::too_urgent(shortest)));
    }
    let deliver_by = wanted.by.map(|by| {
        let time = Duration::from_secs(by.seconds.unsigned_abs());
        let at = if by.seconds < 0 { now - time } else { now + time };
        DeliverBy { at, late: if by.returns { Late::Return } else { Late::Notify }, trace: by.trace }
    });
    Ok(Terms {
        require_tls: wanted.require_tls,
        tls_optional: false,
        release: release.filter(|release| *release > now),
        deliver_by,
        priority: wanted.priority.map(|priority| priority.min(limits.max_priority)),
    })
}

/// Whether a parameter of MAIL or RCPT belongs to an extension that is offered: what is wrong with the value of one that is
/// not does not matter.
pub(crate) fn is_offered(context: &Context, keyword: &str) -> bool {
    match keyword {
        "RET" | "ENVID" | "NOTIFY" | "ORCPT" => offers_dsn(context),
        "REQUIRETLS" => offers_require_tls(context),
        "BY" => offers_deliver_by(context),
        "HOLDFOR" | "HOLDUNTIL" => offers_hold(context),
        "MT-PRIORITY" => offers_priority(context),
        "AUTH" => context.peer.listener.is_submission(),
        BINARY_BODY => offers_binary_mime(context),
        _ => true,
    }
}

/// The first parameter of MAIL that belongs to an extension which is not offered.
pub(crate) fn not_offered_to_mail(context: &Context, parameters: &MailParameters) -> Option<&'static str> {
    let given = [
        (BINARY_BODY, parameters.body == Some(Body::BinaryMime)),
        ("RET", parameters.ret.is_some()),
        ("ENVID", parameters.envelope_id.is_some()),
        ("REQUIRETLS", parameters.require_tls),
        ("BY", parameters.by.is_some()),
        ("HOLDFOR", matches!(parameters.hold, Some(Hold::For(_)))),
        ("HOLDUNTIL", matches!(parameters.hold, Some(Hold::Until(_)))),
        ("MT-PRIORITY", parameters.priority.is_some()),
        ("AUTH", parameters.auth),
    ];
    first_not_offered(context, &given)
}

/// The same of RCPT.
pub(crate) fn not_offered_to_rcpt(context: &Context, parameters: &RcptParameters) -> Option<&'static str> {
    let given = [("NOTIFY", parameters.notify.is_some()), ("ORCPT", parameters.original.is_some())];
    first_not_offered(context, &given)
}

fn first_not_offered(context: &Context, given: &[(&'static str, bool)]) -> Option<&'static str> {
    let mut given = given.iter().filter(|(_, is_given)| *is_given).map(|(keyword, _)| *keyword);
    given.find(|keyword| !is_offered(context, keyword))
}
