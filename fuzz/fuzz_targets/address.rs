//! Addresses and domains: what is taken is written back as something that means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern_smtp::{Address, Domain, ForwardPath, Host, ReversePath};

fuzz_target!(|text: &str| {
    if let Ok(address) = Address::parse(text) {
        let written = address.to_string();
        assert_eq!(Address::parse(&written).as_ref(), Ok(&address), "{written}");
        let folded = address.folded();
        if let Ok(again) = Address::parse(&folded) {
            assert_eq!(again.folded(), folded);
        }
    }
    for parse in [Domain::parse, Domain::parse_tolerant] {
        if let Ok(domain) = parse(text) {
            assert_eq!(Domain::parse_tolerant(domain.as_str()).as_ref(), Ok(&domain));
            assert!(domain.is_within(&domain));
        }
    }
    if let Ok(host) = Host::parse(text) {
        assert_eq!(Host::parse(&host.to_string()).as_ref(), Ok(&host));
    }
    if let Ok(path) = ReversePath::parse(text) {
        assert_eq!(ReversePath::parse(&path.to_string()).as_ref(), Ok(&path));
    }
    let _ = ForwardPath::parse(text);
});
