//! Step 1: the listeners as a client sees them, the certificate, and the host name in DNS.

use std::path::Path;
use std::time::Duration;

use postern_admin::api::doctor::{Check, Finding};
use postern_config::{ListenerKind, Tls};
use postern_outbound::tls::ClientTls;
use postern_smtp::ehlo::Capabilities;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::certificate::{self, Expiry};
use super::client::{Client, Lost, Target};
use super::own::{Listener, Site};
use super::sources::Sources;
use crate::Session;
use crate::failure::Failure;

/// What each kind is for, and the port at which clients look for it.
const KINDS: [(ListenerKind, u16, &str); 3] = [
    (ListenerKind::Mx, 25, "other servers cannot bring mail"),
    (ListenerKind::Submission, 587, "people cannot send with STARTTLS"),
    (ListenerKind::Submissions, 465, "people cannot send with TLS from the first octet"),
];

/// Looks at everything that a client sees before it says who it is.
pub(super) async fn look(
    sources: &Sources,
    patience: Duration,
    session: &Session,
) -> Result<Vec<Finding>, Failure> {
    let site = Site::find(session).await?;
    let config = sources.config();
    let authorities = config.as_ref().ok().and_then(|config| config.outbound.ca_file.clone());
    let tls = ClientTls::new(authorities.as_deref()).map_err(|error| Failure::Other(error.into()))?;
    // A full disk comes before everything that clients see.
    let unwell = site.unwell.iter().map(|reason| Finding::error("server", reason.as_str()));
    let mut found: Vec<Finding> = unwell.chain(missing(&site.listeners)).collect();
    let mut shown: Vec<Shown> = Vec::new();
    for listener in &site.listeners {
        let Some(address) = listener.reached_from(None) else { continue };
        let place = format!("{} {}", listener.kind, listener.address);
        let target = Target {
            address,
            host: site.hostname.clone(),
            source: None,
            implicit_tls: listener.kind == ListenerKind::Submissions.as_str(),
            starttls: false,
            helo: None,
            patience,
        };
        let visit = Visit { place, kind: &listener.kind, hostname: &site.hostname, tls: &tls };
        let (mut told, certificate) = visit.make(&target).await;
        found.append(&mut told);
        shown.extend(certificate.filter(|new| shown.iter().all(|known| known.leaf != new.leaf)));
    }
    let tls = config.as_ref().ok().and_then(|config| config.tls.as_ref());
    let expiry = Expiry::new(tls, session.now);
    for Shown { leaf, is_verified } in &shown {
        found.extend(certificate::look(leaf, &site.hostname, *is_verified, &expiry));
    }
    found.extend(tls.map(|tls| in_files(tls, &shown, &expiry)).unwrap_or_default());
    found.extend(sources.check(Check::Names).await?);
    Ok(found)
}

/// A leaf certificate, and whether it was good for the host name.
struct Shown {
    leaf: CertificateDer<'static>,
    is_verified: bool,
}

/// What the files hold beside the certificates that were shown.
fn in_files(tls: &Tls, shown: &[Shown], expiry: &Expiry) -> Vec<Finding> {
    let leaf = |path: &Path| CertificateDer::pem_file_iter(path).ok()?.next()?.ok();
    let files: Vec<_> = tls.pairs().filter_map(|pair| Some((pair, leaf(pair.certificate)?))).collect();
    let mut found: Vec<Finding> =
        not_reloaded(files.iter().map(|(_, leaf)| leaf), shown).into_iter().collect();
    // Those for other names are not shown to whoever asks for the name of the host.
    for (pair, leaf) in files.iter().filter(|(_, leaf)| shown.iter().all(|shown| shown.leaf != *leaf)) {
        found.push(expiry.look(&format!("tls {}", pair.certificate.display()), leaf, "its names"));
    }
    found
}

/// Whoever renews a certificate must have it read, where the server does not look by itself.
fn not_reloaded<'a>(
    mut in_files: impl Iterator<Item = &'a CertificateDer<'static>>,
    shown: &[Shown],
) -> Option<Finding> {
    let is_shown = shown.is_empty() || in_files.any(|leaf| shown.iter().any(|shown| shown.leaf == *leaf));
    (!is_shown).then(|| {
        Finding::warning("tls.certificate", "the file holds another certificate than the listeners show")
            .mend("posternctl reload")
    })
}

fn missing(listeners: &[Listener]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (kind, port, consequence) in KINDS {
        let mut of_kind = listeners.iter().filter(|listener| listener.kind == kind.as_str()).peekable();
        if of_kind.peek().is_none() {
            let tls = match kind.is_submission() {
                true => " (it needs [tls], which opens it by itself where no [[listener]] is named)",
                false => "",
            };
            let remedy = format!(
                "beside the other [[listener]] tables, at the end of postern.toml{tls}:\n[[listener]]\nkind = {:?}\naddress = \
                 \"0.0.0.0:{port}\"\nthen posternctl reload",
                kind.as_str()
            );
            let text = format!("there is no {} listener (port {port}): {consequence}", kind.as_str());
            found.push(Finding::warning("listener", text).mend(remedy));
        } else if of_kind.all(|listener| listener.address.port() != port) {
            let text =
                format!("it is not at port {port}, where clients look for it: something must lead them here");
            found.push(Finding::note(format!("{} listener", kind.as_str()), text));
        }
    }
    found
}

/// One listener as a client sees it.
struct Visit<'a> {
    place: String,
    kind: &'a str,
    hostname: &'a str,
    tls: &'a ClientTls,
}

impl Visit<'_> {
    async fn make(&self, target: &Target) -> (Vec<Finding>, Option<Shown>) {
        let mut found = Vec::new();
        let mut opened = match target.open(self.tls).await {
            Ok(opened) => opened,
            Err(lost) => return (vec![self.lost(&lost)], None),
        };
        if opened.name.trim_end_matches('.').to_lowercase() != self.hostname {
            let text = format!("it calls itself {:?}, not {}", opened.name, self.hostname);
            found.push(
                Finding::warning(&self.place, text).mend("is another server, or a proxy, in front of it?"),
            );
        }
        let is_clear = !opened.client.is_secured();
        found.extend(self.auth(&opened.capabilities, is_clear));
        if is_clear && opened.capabilities.has("STARTTLS") {
            match self.start_tls(&mut opened, target).await {
                Ok(()) => found.extend(self.auth(&opened.capabilities, false)),
                Err(lost) => {
                    let text = format!("STARTTLS is offered, and fails: {lost}");
                    found.push(Finding::error(&self.place, text).mend("posternctl config check"));
                    return (found, None);
                }
            }
        } else if is_clear {
            let text = "STARTTLS is not offered: what passes can be read on the way";
            found.push(
                Finding::warning(&self.place, text)
                    .mend("[tls] with certificate and key, then posternctl reload"),
            );
        }
        let shown = shown(&opened.client);
        opened.client.quit().await;
        if !found.iter().any(Finding::is_concern) {
            found.push(Finding::note(&self.place, "it answers as it should"));
        }
        (found, shown)
    }

    async fn start_tls(&self, opened: &mut super::client::Opened, target: &Target) -> Result<(), Lost> {
        let reply = opened.client.command("STARTTLS").await?;
        if !reply.is_success() {
            return Err(Lost::Dismissed(reply));
        }
        opened.client.handshake(self.tls).await?;
        let helo = target.helo_name(opened.client.local);
        opened.hello(&helo).await
    }

    /// Logins belong to submission, under TLS (RFC 8314 §3, RFC 4954 §4).
    fn auth(&self, offered: &Capabilities, is_clear: bool) -> Option<Finding> {
        let is_offered = !offered.auth_mechanisms().is_empty() || offered.has("AUTH");
        let is_mx = self.kind == ListenerKind::Mx.as_str();
        match (is_mx, is_clear, is_offered) {
            (true, _, true) => Some(
                Finding::error(
                    &self.place,
                    "AUTH is offered where other servers come: passwords are guessed there",
                )
                .mend("logins belong to the submission listeners; is another program in front of this one?"),
            ),
            (false, true, true) => Some(
                Finding::error(&self.place, "AUTH is offered before TLS: passwords can be read on the way")
                    .mend("Postern never does that; is another program in front of this listener?"),
            ),
            (false, false, false) => Some(
                Finding::error(&self.place, "AUTH is not offered under TLS: nobody can log in")
                    .mend("posternctl account list; is another program in front of this listener?"),
            ),
            (true, _, false) | (false, true, false) | (false, false, true) => None,
        }
    }

    fn lost(&self, lost: &Lost) -> Finding {
        let (text, remedy) = match lost {
            Lost::Io(_) | Lost::Silent(_) => (
                format!("nobody answers: {lost}"),
                "posternctl status; does the daemon run, and does a firewall stand before the port?"
                    .to_owned(),
            ),
            Lost::Dismissed(reply) if reply.code == 421 => (
                format!("it is too busy to talk: {lost}"),
                "posternctl status; see [smtp] for the limits of connections".to_owned(),
            ),
            Lost::Closed | Lost::Garbled(_) | Lost::Dismissed(_) => (
                format!("it does not talk to us: {lost}"),
                "posternctl ban list; is another program at this port?".to_owned(),
            ),
        };
        Finding::error(&self.place, text).mend(remedy)
    }
}

fn shown(client: &Client) -> Option<Shown> {
    let leaf = client.certificates.first()?.clone();
    Some(Shown { leaf, is_verified: client.is_verified })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_admin::api::doctor::Weight;
    use postern_smtp::Reply;

    use super::*;

    fn listener(kind: &str, address: &str) -> Listener {
        Listener { kind: kind.to_owned(), address: address.parse().unwrap() }
    }

    #[test]
    fn a_kind_of_listener_that_is_missing_is_found_with_its_lines() {
        let all = [
            listener("mx", "[::]:25"),
            listener("submission", "0.0.0.0:587"),
            listener("submissions", "0.0.0.0:465"),
        ];
        assert_eq!(missing(&all), []);
        let found = missing(&all[..1]);
        assert_eq!(found.len(), 2);
        assert!(found[0].is_concern() && found[0].text.contains("port 587"), "{found:?}");
        assert!(found[1].remedy.as_ref().unwrap().contains("address = \"0.0.0.0:465\""), "{found:?}");
        let lines = found[1].remedy.as_ref().unwrap().lines().skip(1).take(3).collect::<Vec<_>>().join("\n");
        assert!(lines.parse::<toml_edit::DocumentMut>().is_ok(), "{lines}");
        let elsewhere = missing(&[listener("mx", "0.0.0.0:2525"), all[1].clone(), all[2].clone()]);
        assert!(matches!(&elsewhere[..], [only] if only.weight == Weight::Note), "{elsewhere:?}");
    }

    #[test]
    fn logins_belong_to_submission_under_tls() {
        let tls = ClientTls::new(None).unwrap();
        let offers = |kind: &str, is_clear: bool, words: &str| {
            let visit = Visit { place: "x".to_owned(), kind, hostname: "mail.proseware.test", tls: &tls };
            let capabilities =
                Capabilities::parse(&Reply::plain(250, format!("mail.proseware.test\n{words}")));
            visit.auth(&capabilities, is_clear).map(|finding| finding.text)
        };
        for (kind, is_clear, words, is_wrong) in [
            ("mx", true, "STARTTLS", false),
            ("mx", false, "AUTH PLAIN", true),
            ("submission", true, "STARTTLS", false),
            ("submission", true, "AUTH=LOGIN", true),
            ("submission", false, "AUTH PLAIN LOGIN", false),
            ("submissions", false, "SIZE 1000", true),
        ] {
            assert_eq!(offers(kind, is_clear, words).is_some(), is_wrong, "{kind} {is_clear} {words}");
        }
    }

    #[test]
    fn a_certificate_that_waits_in_its_file_is_found() {
        let shown = |octets: &[u8]| Shown { leaf: CertificateDer::from(octets.to_vec()), is_verified: true };
        let file = CertificateDer::from(vec![1]);
        assert!(not_reloaded([&file].into_iter(), &[shown(&[2])]).is_some());
        assert!(not_reloaded([&file].into_iter(), &[shown(&[2]), shown(&[1])]).is_none());
        assert!(not_reloaded([&file].into_iter(), &[]).is_none());
    }
}
