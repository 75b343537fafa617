//! Any bytes as a pool's configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::call(("PUT", "/pools/default"), data);
});
