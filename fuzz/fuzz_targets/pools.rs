//! Sends any bytes as the settings of a pool.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::call(("PUT", "/pools/default"), data);
});
