//! The public page of refusals: `GET .../TOKEN`, for whoever got the reply with it.
//!
//! It is the one page of this server that strangers may open, so it gives as little as it can: one refusal to whoever has its
//! token of 128 random bits, in words for the sender. Settings, logins, rules and other mail are not on it. Whatever is asked
//! for otherwise, a short reference too, gets one and the same answer. All that a client gave is escaped, and the page
//! neither runs nor loads anything.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use postern_config::replies::Class;
use postern_config::{Config, LoginPorts};
use postern_policy::record::{Record, Records, Token};
use postern_smtp::date::rfc5322;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::{self, MAX_CONNECTIONS, READ_TIMEOUT, ServeError};

/// Addresses whose requests are counted; when there are more, counting begins anew.
const MOST_ADDRESSES: usize = 10_000;
const MINUTE: Duration = Duration::from_secs(60);

/// What the page is made from. Cheap to clone.
#[derive(Clone)]
pub struct Shared {
    /// Refusals by their token.
    pub records: Arc<Records>,
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// Hands out the certificates in force, for `report.tls`; browsers are not asked for one of theirs.
    pub tls: Arc<dyn Fn() -> Option<Arc<ServerConfig>> + Send + Sync>,
}

/// Serves the page at `address` until `stop`; answers the address with its real port.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve(
    address: SocketAddr,
    shared: Shared,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> Result<SocketAddr, ServeError> {
    let (listener, address) = server::listen(address)?;
    tasks.spawn(accept(listener, shared, stop, tasks.clone()));
    Ok(address)
}

async fn accept(listener: TcpListener, shared: Shared, stop: CancellationToken, tasks: TaskTracker) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let visits = Arc::new(Mutex::new(Visits::new()));
    let router = Router::new().fallback(page).with_state((shared.clone(), visits));
    while let Some((accepted, permit)) = server::next(listener.accept(), &room, &stop).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                server::pause_after(&error, &stop).await;
                continue;
            }
        };
        let router = router.clone().layer(Extension(Peer(peer.ip().to_canonical())));
        let (shared, stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move {
            if !shared.config.load().report.tls {
                return server::connection(stream, router, stop, permit).await;
            }
            let Some(config) = (shared.tls)() else { return };
            // Whoever does not finish the handshake is no reader.
            if let Ok(Ok(stream)) = timeout(READ_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await {
                server::connection(stream, router, stop, permit).await;
            }
        });
    }
}

/// Who connected.
#[derive(Debug, Clone, Copy)]
struct Peer(IpAddr);

/// Requests of the present minute.
#[derive(Debug)]
struct Visits {
    began: Instant,
    counts: HashMap<IpAddr, u32>,
}

impl Visits {
    fn new() -> Self {
        Self { began: Instant::now(), counts: HashMap::new() }
    }

    /// Whether an address may ask once more.
    fn admit(&mut self, address: IpAddr, most: u32, now: Instant) -> bool {
        if now.duration_since(self.began) >= MINUTE || self.counts.len() >= MOST_ADDRESSES {
            *self = Self { began: now, counts: HashMap::new() };
        }
        let count = self.counts.entry(network(address)).or_default();
        *count = count.saturating_add(1);
        *count <= most
    }
}

/// What one visitor has: an IPv4 address, a /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// Who asks: behind a proxy that is configured, whoever the proxy names last.
fn visitor(peer: IpAddr, headers: &HeaderMap, proxies: &[IpAddr]) -> IpAddr {
    if !proxies.contains(&peer) {
        return peer;
    }
    let fields = headers.get_all("x-forwarded-for").iter();
    let last = fields.filter_map(|field| field.to_str().ok()?.rsplit(',').next()).next_back();
    last.and_then(|text| text.trim().parse().ok()).unwrap_or(peer)
}

async fn page(
    State((shared, visits)): State<(Shared, Arc<Mutex<Visits>>)>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
) -> Response {
    let config = shared.config.load_full();
    let visitor = visitor(peer, request.headers(), &config.report.proxies);
    if !visits.lock().await.admit(visitor, config.report.max_requests, Instant::now()) {
        let text = "<h1>Too many requests</h1><p>Try again in a minute.</p>";
        return answer(StatusCode::TOO_MANY_REQUESTS, &config, text);
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return answer(StatusCode::METHOD_NOT_ALLOWED, &config, "<h1>Not with this method</h1>");
    }
    // A proxy may have taken the path in front of it away.
    let token = request.uri().path().rsplit('/').next().unwrap_or_default();
    let found = match token.parse::<Token>() {
        Ok(token) => {
            let records = Arc::clone(&shared.records);
            server::blocking(move || records.find_by_token(&token)).await.ok().flatten()
        }
        Err(_) => None,
    };
    match found {
        Some(record) => answer(StatusCode::OK, &config, &body(&record, &config)),
        None => {
            let text = "<h1>Nothing is known here</h1>\n<p>Records of refused messages are kept for a while only. \
                        Copy the whole address from the reply, or ask the postmaster.</p>";
            answer(StatusCode::NOT_FOUND, &config, text)
        }
    }
}

/// A whole page. Its headers let it do nothing, be kept nowhere and tell nobody its address.
fn answer(status: StatusCode, config: &Config, body: &str) -> Response {
    const HEADERS: [(header::HeaderName, &str); 6] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // Addresses get into archives of mailing lists, and search engines read those.
        (header::HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
    ];
    let host = escaped(config.hostname.as_str());
    let page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Refused mail - {host}</title></head>\n\
         <body>\n{body}\n<hr><p>{host}</p>\n</body>\n</html>\n"
    );
    let mut response = (status, Html(page)).into_response();
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What the sender may know: his own data, and what to do.
fn body(record: &Record, config: &Config) -> String {
    let is_temporary = record.reply.starts_with('4');
    let title = if is_temporary { "Your message was put off" } else { "Your message was refused" };
    let time = std::time::UNIX_EPOCH + Duration::from_secs(record.time);
    let sender = match (record.stage.as_str(), record.reverse_path.as_str()) {
        // Nobody had named one yet.
        ("connect" | "login", _) => "",
        (_, "") => "none (a report)",
        (_, sender) => sender,
    };
    let rows = [
        ("Time", rfc5322(time)),
        ("From the address", record.client.clone()),
        ("Which called itself", record.helo.clone().unwrap_or_default()),
        ("Sender", sender.to_owned()),
        ("Recipient", record.recipient.clone().unwrap_or_default()),
        ("Reply", record.reply.clone()),
    ];
    let rows = rows.iter().filter(|(_, value)| !value.is_empty());
    let rows: String =
        rows.map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>\n", escaped(value))).collect();
    let mut text =
        format!("<h1>{title}</h1>\n<dl>\n{rows}</dl>\n<h2>Why</h2>\n<p>{}</p>\n", explained(record.class));
    text += &format!(
        "<p>In short: {}.</p>\n<h2>What you can do</h2>\n<p>{}</p>\n",
        escaped(&record.cause),
        advice(record.class, &LoginPorts::of(&config.listeners))
    );
    if !record.advice.is_empty() {
        text += &format!("<p>In short: {}.</p>\n", escaped(&record.advice));
    }
    if is_temporary {
        text += "<p>Your mail server tries again by itself; you need not send the message again.</p>\n";
    }
    let host = escaped(config.hostname.as_str());
    text + &format!(
        "<p>If that does not help, write to postmaster@{host} and name the reference {}.</p>\n",
        escaped(&record.reference)
    )
}

/// What a class of refusals is, for somebody who knows no mail server.
fn explained(class: Class) -> &'static str {
    match class {
        Class::Relay => {
            "This server takes mail for its own recipients from everybody, and mail for others only from its own \
             users. The recipient is not here, and the computer that sent the message was not known as one of ours."
        }
        Class::AuthenticationRequired => "Mail can be handed in here only after a login.",
        Class::Banned => "Connections from this address are not accepted for a while.",
        Class::Login => "The login was not accepted.",
        Class::Suspended => "The login is locked at present.",
        Class::Sender => "The sender address of the message may not be used by whoever sent it.",
        Class::Header => {
            "A sender address inside the message may not be used by whoever sent it, or cannot be read."
        }
        Class::RecipientUnknown => "There is no such recipient at this server.",
        Class::Recipient => "This recipient does not take mail this way.",
        Class::Blocklisted => {
            "The computer that sent the message is on public lists of senders of unwanted mail."
        }
        Class::Rule => "The people who run this server have chosen not to take such messages.",
        Class::Rate => "More mail came than may be sent at once.",
        Class::Dns => {
            "The domain name system did not give an answer that is needed to decide about the message."
        }
    }
}

/// What the sender can do about a class of refusals.
fn advice(class: Class, ports: &LoginPorts) -> Cow<'static, str> {
    let text = match class {
        Class::Relay | Class::AuthenticationRequired => return logging_in(ports).into(),
        Class::Banned => {
            "Check user name and password in the settings of every mail program that uses this address, and wait. If it lasts, ask the \
             postmaster, from another address or in another way than by mail."
        }
        Class::Login => "Check user name and password in the settings of your mail program.",
        Class::Suspended => "Ask the postmaster why, and change your password if somebody else may know it.",
        Class::Sender | Class::Header => {
            "Send with an address of your own account. If you should be allowed to use this one, ask the postmaster."
        }
        Class::RecipientUnknown => {
            "Check the spelling of the address, or ask the recipient for the right one."
        }
        Class::Recipient => "Ask the recipient, in another way than by mail, which address to use.",
        Class::Blocklisted => {
            "Show this to whoever runs your mail server: the lists say on their pages why it is listed and how that ends. The \
             postmaster here takes your mail all the same."
        }
        Class::Rule => "If you think that this is a mistake, write to the postmaster.",
        Class::Rate => "Wait, or send to fewer recipients at once.",
        Class::Dns => "Wait. If it lasts, the name servers of the sender's domain need a look.",
    };
    text.into()
}

fn logging_in(ports: &LoginPorts) -> String {
    const OTHERWISE: &str = "send through your own provider's server";
    let tls = ports.tls.first().map(|port| format!("port {port} with TLS"));
    let starttls = ports.starttls.first().map(|port| format!("port {port} with STARTTLS"));
    let ways: Vec<String> = [tls, starttls].into_iter().flatten().collect();
    if ways.is_empty() {
        return format!("Nobody can log in at this server: {OTHERWISE}, or ask the postmaster.");
    }
    format!(
        "If you have an account here, let your mail program log in: outgoing server with user name and password, {}. If you have \
         none, {OTHERWISE}.",
        ways.join(" or ")
    )
}

/// As text of HTML, whatever it is.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn nothing_of_a_client_becomes_html() {
        assert_eq!(escaped("<script>\"'&\u{7}ä"), "&lt;script&gt;&quot;&#39;&amp;?ä");
    }

    #[test]
    fn the_ports_for_logins_are_those_of_the_listeners() {
        let ports = |starttls: &[u16], tls: &[u16]| {
            advice(Class::Relay, &LoginPorts { starttls: starttls.to_vec(), tls: tls.to_vec() }).into_owned()
        };
        assert!(ports(&[587], &[465]).contains("port 465 with TLS or port 587 with STARTTLS."));
        assert!(ports(&[2587], &[]).contains("password, port 2587 with STARTTLS."));
        assert!(ports(&[], &[]).starts_with("Nobody can log in at this server"));
    }

    #[test]
    fn a_visitor_has_so_many_requests_a_minute() {
        let (mut visits, now) = (Visits::new(), Instant::now());
        let mut admitted = |text: &str, now| visits.admit(address(text), 2, now);
        assert_eq!([(); 3].map(|()| admitted("198.51.100.9", now)), [true, true, false]);
        assert!(admitted("198.51.100.10", now));
        assert!(
            admitted("2001:db8::1", now) && admitted("2001:db8::2", now) && !admitted("2001:db8::3", now)
        );
        assert!(admitted("198.51.100.9", now + MINUTE));
        let mut visits = Visits::new();
        for at in 0..2 * MOST_ADDRESSES as u32 {
            visits.admit(IpAddr::V4(at.into()), 2, now);
            assert!(visits.counts.len() <= MOST_ADDRESSES);
        }
    }

    #[test]
    fn only_a_proxy_of_ours_is_believed_and_only_its_own_word() {
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
        headers.append("x-forwarded-for", HeaderValue::from_static("203.0.113.7, 198.51.100.9"));
        let (proxy, proxies) = (address("127.0.0.1"), [address("127.0.0.1")]);
        assert_eq!(visitor(proxy, &headers, &proxies), address("198.51.100.9"));
        assert_eq!(visitor(proxy, &headers, &[]), proxy);
        assert_eq!(visitor(address("203.0.113.1"), &headers, &proxies), address("203.0.113.1"));
        headers.append("x-forwarded-for", HeaderValue::from_static("unknown"));
        assert_eq!(visitor(proxy, &headers, &proxies), proxy);
    }
}
