//! Sends any bytes as the body of any route. The first byte selects the route.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((route, body)) = data.split_first() else { return };
    fuzz::call(fuzz::ROUTES[usize::from(*route) % fuzz::ROUTES.len()], body);
});
