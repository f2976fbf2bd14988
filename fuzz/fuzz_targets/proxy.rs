//! The header of the PROXY protocol: the same answer however much has come, and never one that reaches past the header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern_smtp::proxy::{MAX_V2, Step, parse};

fuzz_target!(|octets: &[u8]| {
    let whole = parse(octets);
    match whole {
        Ok(Step::Done(_, length)) => {
            assert!(length <= octets.len() && length <= MAX_V2);
            assert_eq!(parse(&octets[..length]), whole);
            for end in 0..length {
                let Ok(Step::More(missing)) = parse(&octets[..end]) else {
                    panic!("{end} of {length} octets are not enough, nor wrong")
                };
                assert!(
                    missing > 0 && end + missing <= length,
                    "asks for {missing} behind {end} of {length}"
                );
            }
        }
        Ok(Step::More(missing)) => {
            assert!(missing > 0 && octets.len() + missing <= MAX_V2);
            for end in 0..octets.len() {
                assert!(matches!(parse(&octets[..end]), Ok(Step::More(_))), "{end}");
            }
        }
        Err(_) => {}
    }
});
