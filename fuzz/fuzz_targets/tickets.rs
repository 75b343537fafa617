//! Reads any text as a ticket, and any claims that are signed with the right key. No text is accepted, and no signed
//! claims are accepted for another player or server.
#![no_main]

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use shared::{
    domain::{PlayerId, ServerId, TokenHash},
    ticket,
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let key = TokenHash::of(fuzz::TOKEN);
    let (server, player) = (ServerId::parse("s1").expect("an id"), PlayerId::parse("p1").expect("an id"));
    if let Ok(text) = std::str::from_utf8(data) {
        // The fuzzer cannot guess a valid signature.
        assert!(ticket::read(&key, &server, &player, text).is_err());
    }
    let Ok(claims) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    let header = Header::new(Algorithm::HS256);
    let Ok(signed) = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(key.bytes())) else { return };
    if let Ok(read) = ticket::read(&key, &server, &player, &signed) {
        assert_eq!(claims["sub"], "p1");
        let for_us = |audience: &serde_json::Value| audience == "s1";
        assert!(for_us(&claims["aud"]) || claims["aud"].as_array().is_some_and(|all| all.iter().any(for_us)));
        assert!(read.placement.get() > 0);
    }
});
