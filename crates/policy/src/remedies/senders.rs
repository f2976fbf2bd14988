//! Senders that a login or a grant may not use, in the envelope or in the header.

use postern_smtp::Address;

use super::Site;
use crate::shell::word;

pub(super) fn send_as(login: &str, address: &str) -> Vec<String> {
    let mut ways = vec![format!(
        "let the login send as it: `posternctl account grant {} --send-as {}`",
        word(login),
        word(address)
    )];
    if let Some((_, domain)) = address.rsplit_once('@') {
        ways.push(format!(
            "or as its whole domain: `posternctl account grant {} --send-as {}`",
            word(login),
            word(&format!("@{domain}"))
        ));
    }
    ways
}

pub(super) fn verify(domain: &str, missing: &str) -> Vec<String> {
    vec![
        format!("publish what is missing ({missing}): `posternctl domain records {domain}` prints it"),
        format!("then have it looked at: `posternctl domain verify {domain}`"),
    ]
}

pub(super) fn owners_lock(login: &str, domain: &str, is_broken: bool) -> String {
    match is_broken {
        true => format!(
            "the owner of {domain} mends the TXT record at _postern.{domain}: \"v=postern1; logins={login}\""
        ),
        false => format!(
            "the owner of {domain} adds {login} to the TXT record at _postern.{domain}, or removes the record"
        ),
    }
}

pub(super) fn cover_by_spf(domain: &str) -> String {
    format!("the owner of {domain} lists this server in the domain's SPF record")
}

pub(super) fn header_of_grant(label: &str, field: &str, address: &str, site: &Site) -> Vec<String> {
    vec![
        format!(
            "add {address} to the senders of the grant {label:?} in {}, then posternctl reload",
            site.grant_file(label)
        ),
        format!("or the client names only senders of the grant in the {field} field"),
    ]
}

pub(super) fn header_of_login(login: &str, field: &str, address: &str) -> Vec<String> {
    match Address::parse(address) {
        Ok(_) => send_as(login, address),
        Err(_) => vec![format!("the {field} field of the message names only addresses that {login} may use")],
    }
}
