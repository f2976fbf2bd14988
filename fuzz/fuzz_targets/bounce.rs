//! The bounce explainer, which is given whatever somebody saved to a file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let _ = postern_policy::bounce::explain(octets);
});
