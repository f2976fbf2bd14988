//! Header fields and the addresses in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern_smtp::header;

fuzz_target!(|message: &[u8]| {
    let end = header::body_offset(message);
    assert!(end <= message.len());
    let head = &message[..end];
    let _ = header::is_well_formed(head);
    for field in header::fields(head) {
        if let Ok(addresses) = header::addresses(field.value) {
            for address in addresses {
                assert!(!address.to_string().contains(['\r', '\n', '\0']), "{address}");
            }
        }
    }
    let _ = header::addresses(message);
});
