//! Checks a ticket offline, without a call to OWMM.
//!
//! A ticket is a JWT that OWMM has signed with HS256 for one player and one server. The key is the SHA-256 of the token
//! that this server got at start. Only OWMM and this server know the key, and it is never transmitted.
//!
//! A valid ticket proves that OWMM has placed this player on this server. Only the registration of the player at OWMM
//! shows whether the slot is still reserved. The offline check comes first, so that a forged ticket causes no call to
//! OWMM.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{http::is_id, secret::Secret};

/// Content of a valid ticket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CheckedTicket {
    /// The player's id.
    pub(super) player: String,
    /// The placement that the ticket was issued for.
    pub(super) placement: u64,
}

/// Why a ticket is invalid.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadTicket {
    #[error("{0}")]
    Jwt(#[from] jsonwebtoken::errors::Error),
    #[error("`sub` is not a player id")]
    Player,
    #[error("`jti` is not a placement")]
    Placement,
}

pub(super) struct TicketCheck {
    key: DecodingKey,
    validation: Validation,
}

impl TicketCheck {
    pub(super) fn new(server_id: &str, token: &Secret) -> Self {
        // Only HS256 is accepted, which rejects `none` and any other algorithm that a forger could choose.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_required_spec_claims(&["sub", "aud", "exp"]);
        validation.set_audience(&[server_id]);
        // OWMM checks the time again. With clocks slightly apart, a player at worst has to join once more.
        validation.leeway = 0;
        Self { key: DecodingKey::from_secret(&Sha256::digest(token.expose())), validation }
    }

    pub(super) fn check(&self, ticket: &Secret) -> Result<CheckedTicket, BadTicket> {
        #[derive(Deserialize)]
        struct Claims {
            sub: String,
            jti: String,
        }
        let claims: Claims = decode(ticket.expose(), &self.key, &self.validation)?.claims;
        if !is_id(&claims.sub, 128, "._:|@=+-") {
            return Err(BadTicket::Player);
        }
        let placement = claims.jti.parse().map_err(|_| BadTicket::Placement)?;
        Ok(CheckedTicket { player: claims.sub, placement })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
    use serde_json::{Value, json};

    use super::*;

    const TOKEN: &str = "token-of-this-server";

    fn good() -> Value {
        json!({"sub": "auth0|ann", "aud": "s1", "exp": get_current_timestamp() + 60, "jti": "1760000000123"})
    }

    fn signed(algorithm: Algorithm, key: &[u8], claims: &Value) -> Secret {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(key)).unwrap().into()
    }

    fn ticket(claims: &Value) -> Secret {
        signed(Algorithm::HS256, &Sha256::digest(TOKEN), claims)
    }

    /// Returns a ticket with one valid claim replaced by `value`, or removed if `value` is `null`.
    fn but(claim: &str, value: Value) -> Secret {
        let mut claims = good();
        let all = claims.as_object_mut().unwrap();
        if value.is_null() {
            all.remove(claim)
        } else {
            all.insert(claim.to_owned(), value)
        };
        ticket(&claims)
    }

    fn check(ticket: &Secret) -> Result<CheckedTicket, BadTicket> {
        TicketCheck::new("s1", &TOKEN.into()).check(ticket)
    }

    #[test]
    fn a_valid_ticket_has_player_and_placement() {
        assert_eq!(
            check(&ticket(&good())).unwrap(),
            CheckedTicket { player: "auth0|ann".into(), placement: 1_760_000_000_123 }
        );
    }

    #[test]
    fn a_ticket_that_is_signed_with_another_key_is_refused() {
        for (case, key) in [
            ("another token's hash", &Sha256::digest("token-of-another")[..]),
            ("the token itself", TOKEN.as_bytes()),
            ("an empty key", b""),
        ] {
            assert!(check(&signed(Algorithm::HS256, key, &good())).is_err(), "{case}");
        }
    }

    #[test]
    fn a_ticket_for_another_server_or_without_a_server_is_refused() {
        for aud in [json!("s2"), json!(["s2", "s3"]), json!(""), Value::Null] {
            assert!(check(&but("aud", aud.clone())).is_err(), "{aud}");
        }
    }

    #[test]
    fn a_ticket_that_has_expired_or_has_no_expiry_is_refused() {
        for exp in [json!(get_current_timestamp() - 2), json!(0), json!("tomorrow"), Value::Null] {
            assert!(check(&but("exp", exp.clone())).is_err(), "{exp}");
        }
    }

    #[test]
    fn a_ticket_without_a_valid_player_or_placement_is_refused() {
        for sub in [json!(""), json!("a/b"), json!(".."), json!("x".repeat(129)), json!(7), Value::Null] {
            assert!(check(&but("sub", sub.clone())).is_err(), "{sub}");
        }
        for jti in [json!("-1"), json!("one"), json!(7), Value::Null] {
            assert!(check(&but("jti", jti.clone())).is_err(), "{jti}");
        }
    }

    #[test]
    fn only_hs256_is_accepted_even_with_the_right_key() {
        for algorithm in [Algorithm::HS384, Algorithm::HS512] {
            assert!(check(&signed(algorithm, &Sha256::digest(TOKEN), &good())).is_err(), "{algorithm:?}");
        }
    }

    #[test]
    fn a_ticket_without_a_signature_is_refused() {
        let claims = BASE64_URL_SAFE_NO_PAD.encode(good().to_string());
        let whole = ticket(&good());
        let (_, signature) = whole.expose().rsplit_once('.').unwrap();
        for algorithm in ["none", "None", "NONE", "HS256"] {
            let header = BASE64_URL_SAFE_NO_PAD.encode(json!({"typ": "JWT", "alg": algorithm}).to_string());
            assert!(check(&format!("{header}.{claims}.").into()).is_err(), "{algorithm}");
            assert!(check(&format!("{header}.{claims}").into()).is_err(), "{algorithm}");
            if algorithm != "HS256" {
                assert!(check(&format!("{header}.{claims}.{signature}").into()).is_err(), "{algorithm}");
            }
        }
    }

    #[test]
    fn a_ticket_whose_claims_were_changed_after_signing_is_refused() {
        let whole = ticket(&good());
        let (header, rest) = whole.expose().split_once('.').unwrap();
        let (_, signature) = rest.split_once('.').unwrap();
        for (claim, value) in [("sub", json!("bob")), ("exp", json!(u64::MAX)), ("jti", json!("2"))] {
            let mut claims = good();
            claims.as_object_mut().unwrap().insert(claim.to_owned(), value);
            let claims = BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
            assert!(check(&format!("{header}.{claims}.{signature}").into()).is_err(), "{claim}");
        }
    }

    #[test]
    fn a_text_that_is_not_a_jwt_is_refused() {
        for text in ["", ".", "..", "a.b.c", "{}", "\u{0}", &"x".repeat(8000)] {
            assert!(check(&text.into()).is_err(), "{text}");
        }
    }
}
