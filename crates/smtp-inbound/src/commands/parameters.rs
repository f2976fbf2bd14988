//! Which parameters of MAIL and RCPT a client may use: those of extensions that it was offered.

use postern_config::smtp::OfferDsn;
use postern_smtp::Body;
use postern_smtp::command::{MailParameters, RcptParameters};

use crate::session::Context;

/// Whether DSN is offered (RFC 3461). Whoever can use a submission listener has a login, or soon will.
pub(crate) fn offers_dsn(context: &Context) -> bool {
    match context.config.smtp.dsn {
        OfferDsn::Everyone => true,
        OfferDsn::Known => context.peer.listener.is_submission() || context.is_trusted(),
        OfferDsn::Nobody => false,
    }
}

/// Whether a parameter of MAIL or RCPT belongs to an extension that is offered: what is wrong with the value of one that is
/// not does not matter.
pub(crate) fn is_offered(context: &Context, keyword: &str) -> bool {
    match keyword {
        "RET" | "ENVID" | "NOTIFY" | "ORCPT" => offers_dsn(context),
        "REQUIRETLS" => context.tls.is_some(),
        "BODY=BINARYMIME" => false,
        "AUTH" => context.peer.listener.is_submission(),
        _ => true,
    }
}

/// The first parameter of MAIL that belongs to an extension which is not offered.
pub(crate) fn not_offered_to_mail(context: &Context, parameters: &MailParameters) -> Option<&'static str> {
    let given = [
        ("RET", parameters.ret.is_some()),
        ("ENVID", parameters.envelope_id.is_some()),
        ("BODY=BINARYMIME", parameters.body == Some(Body::BinaryMime)),
        ("REQUIRETLS", parameters.require_tls),
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
