//! What other servers say: replies, and the extensions in the reply to EHLO.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern_smtp::ehlo::Capabilities;
use postern_smtp::reply::ReplyReader;

/// As many octets as a client of ours reads of one reply, at most.
const LIMIT: usize = 4096;

fuzz_target!(|said: &[u8]| {
    let mut reader = ReplyReader::new(LIMIT);
    for line in said.split(|octet| *octet == b'\n') {
        match reader.line(line) {
            Ok(Some(reply)) => {
                assert!((200..600).contains(&reply.code));
                let capabilities = Capabilities::parse(&reply);
                let _ = (capabilities.size_limit(), capabilities.auth_mechanisms());
                let mut wire = Vec::new();
                reply.into_ascii().write_to(&mut wire);
                assert!(wire.ends_with(b"\r\n") && wire.is_ascii(), "{:?}", String::from_utf8_lossy(&wire));
                for line in wire.strip_suffix(b"\r\n").unwrap_or(&wire).split(|octet| *octet == b'\n') {
                    assert!(!line.strip_suffix(b"\r").unwrap_or(line).contains(&b'\r'));
                }
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
});
