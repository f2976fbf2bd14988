//! HTTP with the identity provider: one server, few questions, connections that are used again.

use std::fmt;
use std::io;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use postern_config::oauth::OAuth;
use rustls_pki_types::ServerName;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::jwt::{Claims, Key};
use super::{Answer, Refused};
use crate::login_source::Idle;
use crate::tls::trust;

/// Octets of an answer: sets of keys have a few thousand.
const LONGEST_ANSWER: usize = 256 * 1024;

/// One address of the provider.
pub(super) struct Provider {
    url: String,
    ca_file: Option<PathBuf>,
    idle: Idle<SendRequest<Full<Bytes>>>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Provider {
    pub fn new(url: &str, config: &OAuth) -> Self {
        let idle = Idle::new(config.max_requests);
        Self { url: url.to_owned(), ca_file: config.ca_file.clone(), idle }
    }

    /// Its keys.
    pub async fn keys(&self) -> Result<Vec<Key>, String> {
        let (status, body) = self.ask(Method::GET, None, String::new()).await?;
        match status {
            StatusCode::OK => Key::set(&body),
            other => Err(format!("{} answers {other}", self.url)),
        }
    }

    /// What it knows of a token (RFC 7662).
    pub async fn introspect(&self, token: &str, config: &OAuth) -> Result<Claims, Answer> {
        let unavailable = |why: String| Answer::Unavailable { why };
        let secret = match &config.client_secret_file {
            Some(path) => tokio::fs::read_to_string(path)
                .await
                .map_err(|error| unavailable(format!("{}: {error}", path.display())))?,
            None => String::new(),
        };
        let secret = secret.lines().next().unwrap_or_default();
        let id = config.client_id.as_deref().unwrap_or_default();
        // RFC 6749 §2.3.1.
        let basic = format!("Basic {}", STANDARD.encode(format!("{}:{}", form(id), form(secret))));
        let body = format!("token={}&token_type_hint=access_token", form(token));
        let (status, body) = self.ask(Method::POST, Some(basic), body).await.map_err(unavailable)?;
        if status != StatusCode::OK {
            return Err(unavailable(format!("{} answers {status}", self.url)));
        }
        let claims: Map<String, Value> = serde_json::from_slice(&body)
            .map_err(|error| unavailable(format!("{} answers no JSON object: {error}", self.url)))?;
        match claims.get("active").and_then(Value::as_bool) {
            Some(true) => Ok(Claims(claims)),
            // Mostly it has expired, and the provider does not tell that from one that it never gave out (RFC 7662 §2.2).
            Some(false) => {
                Err(Answer::Refused(Refused::mistake("the provider says that the token is not active")))
            }
            None => Err(unavailable(format!("{} does not say whether the token is active", self.url))),
        }
    }

    async fn ask(
        &self,
        method: Method,
        authorization: Option<String>,
        body: String,
    ) -> Result<(StatusCode, Bytes), String> {
        let uri: Uri = self.url.parse().map_err(|error| format!("{}: {error}", self.url))?;
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = || {
            let mut request = Request::builder().method(method.clone()).uri(path);
            request = request.header(HOST, authority.as_str()).header(ACCEPT, "application/json");
            if let Some(authorization) = &authorization {
                request = request.header(AUTHORIZATION, authorization.as_str());
                request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            }
            request.body(Full::new(Bytes::from(body.clone()))).map_err(|error| error.to_string())
        };
        while let Some(mut connection) = self.idle.take() {
            // The server may have closed it meanwhile; then the question is asked anew.
            if let Ok(answer) = exchange(&mut connection, request()?).await {
                self.idle.give(connection);
                return Ok(answer);
            }
        }
        let mut connection = self.connect(&uri).await.map_err(|error| format!("{}: {error}", self.url))?;
        let answer =
            exchange(&mut connection, request()?).await.map_err(|error| format!("{}: {error}", self.url))?;
        self.idle.give(connection);
        Ok(answer)
    }

    async fn connect(&self, uri: &Uri) -> io::Result<SendRequest<Full<Bytes>>> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await?;
        if !is_tls {
            return start(stream).await;
        }
        let ca_file = self.ca_file.as_deref();
        let config = trust::client_config(ca_file).await.map_err(io::Error::other)?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
            let authorities = trust::authorities(ca_file);
            io::Error::new(error.kind(), format!("TLS: {error} (authorities: {authorities})"))
        })?;
        start(stream).await
    }
}

async fn start(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> io::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends when the sender is dropped; what goes wrong in it shows there.
    tokio::spawn(connection);
    Ok(sender)
}

async fn exchange(
    connection: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), String> {
    connection.ready().await.map_err(|error| error.to_string())?;
    let response = connection.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
    Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
}

/// As forms are written: everything but letters, digits and `-._` behind a percent sign.
fn form(text: &str) -> String {
    let encode = |octet: u8| match octet.is_ascii_alphanumeric() || b"-._".contains(&octet) {
        true => char::from(octet).to_string(),
        false => format!("%{octet:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_carry_every_octet() {
        assert_eq!(form("aZ0-._"), "aZ0-._");
        assert_eq!(form("a b&c=d+é"), "a%20b%26c%3Dd%2B%C3%A9");
    }
}
