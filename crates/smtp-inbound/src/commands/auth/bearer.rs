//! OAUTHBEARER (RFC 7628), and XOAUTH2 as Google and Microsoft had it before: a token in one line, and, where it is not taken, a
//! challenge that says why.

use postern_config::oauth::OAuth;
use serde_json::json;

use super::Mechanism;
use crate::tokens::Bearer;

/// What stands between the parts.
const SEPARATOR: char = '\u{1}';

/// Reads the client's message. `None`: it is malformed.
pub(super) fn first(mechanism: Mechanism, message: &[u8]) -> Option<Bearer> {
    let message = std::str::from_utf8(message).ok()?;
    let (name, pairs) = match mechanism {
        Mechanism::OAuthBearer => {
            // A GS2 header (RFC 5801 §4): no channel binding is offered with it, so a client can ask for none.
            let (header, pairs) = message.split_once(SEPARATOR)?;
            let header = header.strip_suffix(',')?;
            let authorisation = header.strip_prefix("n,").or_else(|| header.strip_prefix("y,"))?;
            let name = match authorisation {
                "" => String::new(),
                named => named.strip_prefix("a=")?.replace("=2C", ",").replace("=3D", "="),
            };
            (name, pairs)
        }
        _ => {
            let (user, pairs) = message.split_once(SEPARATOR)?;
            (user.strip_prefix("user=")?.to_owned(), pairs)
        }
    };
    let pairs = pairs.strip_suffix("\u{1}\u{1}")?;
    let scheme_and_token = pairs.split(SEPARATOR).find_map(|pair| pair.strip_prefix("auth="))?;
    let (scheme, token) = scheme_and_token.split_once(' ')?;
    let token = token.trim();
    let is_token = scheme.eq_ignore_ascii_case("Bearer")
        && !token.is_empty()
        && token.chars().all(|character| character.is_ascii_graphic());
    is_token.then(|| Bearer { name, token: token.to_owned() })
}

/// What the client is told of a token that is not taken, before it says that it has read that (RFC 7628 §3.2.2).
pub(crate) fn refusal(mechanism: Mechanism, config: &OAuth) -> String {
    let mut told = match mechanism {
        Mechanism::OAuthBearer => json!({ "status": "invalid_token" }),
        _ => json!({ "status": "401", "schemes": "bearer" }),
    };
    if let Some(scope) = &config.scope {
        told["scope"] = scope.as_str().into();
    }
    if let (Mechanism::OAuthBearer, Some(url)) = (mechanism, &config.openid_configuration) {
        told["openid-configuration"] = url.as_str().into();
    }
    told.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn read(mechanism: Mechanism, message: &str) -> Option<(String, String)> {
        first(mechanism, message.as_bytes()).map(|bearer| (bearer.name, bearer.token))
    }

    #[test]
    fn messages_of_both_mechanisms_are_read() {
        let both = |name: &str| Some((name.to_owned(), "a.b.c".to_owned()));
        for (message, expected) in [
            // RFC 7628 §4.1.
            (
                "n,a=user@example.com,\u{1}host=server.example.com\u{1}port=143\u{1}auth=Bearer a.b.c\u{1}\u{1}",
                both("user@example.com"),
            ),
            ("n,,\u{1}auth=bearer a.b.c\u{1}\u{1}", both("")),
            ("y,a=a=2Cb=3Dc,\u{1}auth=Bearer a.b.c\u{1}\u{1}", both("a,b=c")),
            ("p=tls-exporter,,\u{1}auth=Bearer a.b.c\u{1}\u{1}", None),
            ("n,,\u{1}auth=Basic a.b.c\u{1}\u{1}", None),
            ("n,,\u{1}auth=Bearer a b\u{1}\u{1}", None),
            ("n,,\u{1}auth=Bearer \u{1}\u{1}", None),
            ("n,,\u{1}auth=Bearer a.b.c", None),
            ("n,,\u{1}\u{1}", None),
            ("", None),
        ] {
            assert_eq!(read(Mechanism::OAuthBearer, message), expected, "{message:?}");
        }
        let message = "user=alice@proseware.test\u{1}auth=Bearer a.b.c\u{1}\u{1}";
        assert_eq!(read(Mechanism::XOAuth2, message), both("alice@proseware.test"));
        assert_eq!(read(Mechanism::XOAuth2, "alice\u{1}auth=Bearer a.b.c\u{1}\u{1}"), None);
    }

    #[test]
    fn a_token_does_not_reach_a_log() {
        let bearer = first(Mechanism::XOAuth2, b"user=a\x01auth=Bearer secret\x01\x01").unwrap();
        assert!(!format!("{bearer:?}").contains("secret"));
    }
}
