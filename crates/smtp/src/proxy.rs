//! The header that a proxy puts in front of a connection to say whose it is: the PROXY protocol, versions 1 and 2, as HAProxy's
//! `proxy-protocol.txt` has it. Believe it only of proxies that the configuration names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, with its CRLF (§2.1).
pub const MAX_V1: usize = 107;
/// The longest header of version 2 that is taken. Addresses take 232 octets at most; the rest are further facts (TLVs), which are
/// skipped. The largest of them are names in certificates.
pub const MAX_V2: usize = 4096;

/// The first octets of version 2 (§2.2): a client that speaks first would never send them.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_BEGINNING: &[u8; 6] = b"PROXY ";
/// Signature, version and command, family and protocol, length.
const V2_FIXED: usize = 16;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Somebody's, who connected to the proxy.
    Proxied {
        /// The client.
        client: SocketAddr,
        /// The address that it connected to.
        local: SocketAddr,
    },
    /// The proxy's own, to see whether we are there, or one of which it does not know more: the addresses of the connection
    /// itself count (`LOCAL`, `UNKNOWN`).
    Own,
}

/// How far a header has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// At least so many octets are missing. Whoever reads no more than these reads nothing that stands behind the header.
    More(usize),
    /// It is complete, and has so many octets.
    Done(Header, usize),
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// There is none.
    #[error("no PROXY protocol header")]
    Missing,
    /// Longer than it may be.
    #[error("the PROXY protocol header is longer than {0} octets")]
    TooLong(usize),
    /// It cannot be read.
    #[error("malformed PROXY protocol header: {0}")]
    Malformed(&'static str),
}

/// Reads a header from the beginning of a connection, as far as that has come.
///
/// # Errors
/// When it is none, is too long, or cannot be read: the connection is of no use then.
pub fn parse(input: &[u8]) -> Result<Step, ProxyError> {
    let begins = |beginning: &[u8]| {
        let length = beginning.len().min(input.len());
        input[..length] == beginning[..length]
    };
    if !begins(V1_BEGINNING) && !begins(SIGNATURE) {
        return Err(ProxyError::Missing);
    }
    // The shortest header of either version is longer.
    if input.len() < SIGNATURE.len() {
        return Ok(Step::More(SIGNATURE.len() - input.len()));
    }
    if begins(SIGNATURE) { version_2(input) } else { version_1(input) }
}

fn version_1(input: &[u8]) -> Result<Step, ProxyError> {
    let window = &input[..input.len().min(MAX_V1)];
    let Some(end) = window.iter().position(|octet| *octet == b'\n') else {
        return if window.len() == MAX_V1 { Err(ProxyError::TooLong(MAX_V1)) } else { Ok(Step::More(1)) };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(ProxyError::Malformed("its line ends without CR"))?;
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Malformed("not ASCII"))?;
    let mut words = line.split(' ').skip(1);
    let header = match words.next() {
        // What follows is for no one (§2.1).
        Some("UNKNOWN") => Header::Own,
        Some("TCP4") => addresses(words, |word| word.parse::<Ipv4Addr>().ok().map(IpAddr::from))?,
        Some("TCP6") => addresses(words, |word| word.parse::<Ipv6Addr>().ok().map(IpAddr::from))?,
        _ => return Err(ProxyError::Malformed("neither TCP4, TCP6 nor UNKNOWN")),
    };
    Ok(Step::Done(header, end + 1))
}

fn addresses<'a>(
    mut words: impl Iterator<Item = &'a str>,
    address: impl Fn(&str) -> Option<IpAddr>,
) -> Result<Header, ProxyError> {
    let mut next = || words.next().ok_or(ProxyError::Malformed("addresses or ports are missing"));
    let (client, local, client_port, local_port) = (next()?, next()?, next()?, next()?);
    let address = |word| address(word).ok_or(ProxyError::Malformed("no address of that family"));
    let header = Header::Proxied {
        client: SocketAddr::new(address(client)?, port(client_port)?),
        local: SocketAddr::new(address(local)?, port(local_port)?),
    };
    match words.next() {
        None => Ok(header),
        Some(_) => Err(ProxyError::Malformed("more than addresses and ports")),
    }
}

/// Digits alone: `parse` would take a sign as well.
fn port(word: &str) -> Result<u16, ProxyError> {
    let digits = word.bytes().all(|octet| octet.is_ascii_digit());
    word.parse().ok().filter(|_| digits).ok_or(ProxyError::Malformed("no port"))
}

fn version_2(input: &[u8]) -> Result<Step, ProxyError> {
    let Some((fixed, rest)) = input.split_at_checked(V2_FIXED) else {
        return Ok(Step::More(V2_FIXED - input.len()));
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if V2_FIXED + length > MAX_V2 {
        return Err(ProxyError::TooLong(MAX_V2));
    }
    let is_local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::Malformed("neither LOCAL nor PROXY of version 2")),
    };
    let Some(body) = rest.get(..length) else { return Ok(Step::More(length - rest.len())) };
    let short = ProxyError::Malformed("shorter than its addresses");
    let header = match fixed[13] {
        // What a LOCAL header says of addresses is for no one (§2.2).
        _ if is_local => Header::Own,
        0x11 => two_addresses::<4>(body, |octets| Ipv4Addr::from(octets).into()).ok_or(short)?,
        0x21 => two_addresses::<16>(body, |octets| Ipv6Addr::from(octets).into()).ok_or(short)?,
        // The proxy does not know, or it is no TCP over IP.
        0x00 => Header::Own,
        _ => return Err(ProxyError::Malformed("neither TCP over IPv4 nor over IPv6")),
    };
    Ok(Step::Done(header, V2_FIXED + length))
}

/// Client, local address and both ports, in network order; what stands behind them is skipped.
fn two_addresses<const N: usize>(body: &[u8], address: impl Fn([u8; N]) -> IpAddr) -> Option<Header> {
    let (client, rest) = body.split_first_chunk::<N>()?;
    let (local, rest) = rest.split_first_chunk::<N>()?;
    let (ports, _) = rest.split_first_chunk::<4>()?;
    let [a, b, c, d] = *ports;
    Some(Header::Proxied {
        client: SocketAddr::new(address(*client), u16::from_be_bytes([a, b])),
        local: SocketAddr::new(address(*local), u16::from_be_bytes([c, d])),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn proxied(client: &str, local: &str) -> Header {
        Header::Proxied { client: client.parse().unwrap(), local: local.parse().unwrap() }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, body].concat()
    }

    /// IPv4 addresses 192.0.2.1:4000 to 198.51.100.25:25.
    const FOUR: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 25, 0x0f, 0xa0, 0, 25];

    #[test]
    fn version_1_names_both_ends() {
        for (line, header) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.25 4000 25\r\n", proxied("192.0.2.1:4000", "198.51.100.25:25")),
            (
                "PROXY TCP6 2001:db8::1 2001:db8::25 65535 0\r\n",
                proxied("[2001:db8::1]:65535", "[2001:db8::25]:0"),
            ),
            ("PROXY UNKNOWN\r\n", Header::Own),
            ("PROXY UNKNOWN ffff::1 ffff::2 1 2 whatever\r\n", Header::Own),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(Step::Done(header, line.len())), "{line}");
            let more = format!("{line}EHLO client.test\r\n");
            assert_eq!(parse(more.as_bytes()), Ok(Step::Done(header, line.len())), "{more}");
        }
    }

    #[test]
    fn version_2_names_both_ends_and_further_facts_are_skipped() {
        let header = proxied("192.0.2.1:4000", "198.51.100.25:25");
        let plain = v2(0x21, 0x11, &FOUR);
        assert_eq!(parse(&plain), Ok(Step::Done(header, 28)));
        let long = v2(0x21, 0x11, &[&FOUR[..], &[0xee; 2000]].concat());
        assert_eq!(parse(&long), Ok(Step::Done(header, 2028)));
        let six: Vec<u8> = [Ipv6Addr::LOCALHOST.octets(), Ipv6Addr::UNSPECIFIED.octets()].concat();
        let six = v2(0x21, 0x21, &[six.as_slice(), &[0, 1, 0, 2]].concat());
        assert_eq!(parse(&six), Ok(Step::Done(proxied("[::1]:1", "[::]:2"), 52)));
    }

    #[test]
    fn a_check_of_the_proxy_itself_names_nobody() {
        for header in [v2(0x20, 0x00, &[]), v2(0x20, 0x11, &FOUR), v2(0x20, 0xff, &[1, 2]), v2(0x21, 0, &[])]
        {
            assert_eq!(parse(&header), Ok(Step::Done(Header::Own, header.len())), "{header:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_told_at_its_first_wrong_octet() {
        for input in ["E", "EHLO client.test\r\n", "PROXIES", "proxy TCP4", "\r\n\r\nX", "\u{16}\u{3}\u{1}"] {
            assert_eq!(parse(input.as_bytes()), Err(ProxyError::Missing), "{input:?}");
        }
    }

    #[test]
    fn malformed_headers_are_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.25 4000\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.25 4000 25 \r\n",
            "PROXY TCP4 192.0.2.1  198.51.100.25 4000 25\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.25 +400 25\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.25 65536 25\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.25 4000 \r\n",
            "PROXY TCP4 192.0.2.256 198.51.100.25 4000 25\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 4000 25\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.25 4000 25\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.25 4000 25\r\n",
            "PROXY UNKNOWN\n\n\n",
            "PROXY TCP4 \u{e9}\r\n",
        ] {
            assert!(matches!(parse(line.as_bytes()), Err(ProxyError::Malformed(_))), "{line:?}");
        }
        for header in [
            v2(0x11, 0x11, &FOUR),
            v2(0x22, 0x11, &FOUR),
            v2(0x21, 0x12, &FOUR),
            v2(0x21, 0x31, &[0; 216]),
            v2(0x21, 0x11, &FOUR[..11]),
            v2(0x21, 0x21, &[0; 35]),
        ] {
            assert!(matches!(parse(&header), Err(ProxyError::Malformed(_))), "{header:?}");
        }
    }

    #[test]
    fn a_header_has_an_end() {
        let long = format!("PROXY UNKNOWN {}", "x".repeat(500));
        assert_eq!(parse(long.as_bytes()), Err(ProxyError::TooLong(MAX_V1)));
        assert_eq!(parse(&long.as_bytes()[..MAX_V1]), Err(ProxyError::TooLong(MAX_V1)));
        assert_eq!(parse(&long.as_bytes()[..MAX_V1 - 1]), Ok(Step::More(1)));
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_V1 - 16));
        assert_eq!(parse(longest.as_bytes()), Ok(Step::Done(Header::Own, MAX_V1)));
        let header = v2(0x21, 0x11, &[0; MAX_V2]);
        assert_eq!(parse(&header[..V2_FIXED]), Err(ProxyError::TooLong(MAX_V2)), "told before it is read");
    }

    /// Reads as a connection does: never more than what is missing.
    fn read(whole: &[u8]) -> Result<(Header, usize), ProxyError> {
        let mut length = 0;
        loop {
            match parse(&whole[..length])? {
                Step::More(more) => length = (length + more).min(whole.len()),
                Step::Done(header, octets) => {
                    assert_eq!(octets, length, "nothing behind the header was read");
                    return Ok((header, octets));
                }
            }
        }
    }

    #[test]
    fn nothing_behind_a_header_is_read() {
        for header in [
            b"PROXY TCP4 192.0.2.1 198.51.100.25 4000 25\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            v2(0x21, 0x11, &[&FOUR[..], &[7; 30]].concat()),
            v2(0x20, 0x00, &[]),
        ] {
            let whole = [header.as_slice(), b"EHLO client.test\r\n"].concat();
            assert_eq!(read(&whole).unwrap().1, header.len());
        }
    }

    proptest! {
        #[test]
        fn no_octets_are_too_wild(octets in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_usize..3) {
            let beginning: &[u8] = [&b""[..], V1_BEGINNING, SIGNATURE][kind];
            let input = [beginning, &octets].concat();
            match parse(&input) {
                Ok(Step::Done(_, length)) => prop_assert!(length <= input.len()),
                Ok(Step::More(more)) => prop_assert!(more > 0 && input.len() + more <= MAX_V2),
                Err(_) => {}
            }
        }
    }
}
