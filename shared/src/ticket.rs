//! Tickets: a player presents one to a game server, which can check it without a network call.
//!
//! A ticket is a JWT ([RFC 7519](https://www.rfc-editor.org/rfc/rfc7519)) signed with HS256. The key is the SHA-256 of
//! the server's token, which only the table and that server know. A leaked token allows forging tickets for its own
//! server alone.
//!
//! | JWT claim | value |
//! |---|---|
//! | `sub` | the player |
//! | `aud` | the server |
//! | `exp` | end of the reservation, in seconds since 1970, rounded up |
//! | `jti` | the placement, as decimal digits |

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::domain::{Placement, PlayerId, PresentedTicket, ServerId, Time, TokenHash};

/// Longest ticket that is checked, in bytes; a longer text is refused at once.
const LONGEST: usize = 2_048;

/// A text is not a ticket, or is not a ticket for this player on this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ticket is not one that was issued for this player on this server")]
pub struct BadTicket;

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    aud: String,
    exp: i64,
    jti: String,
}

/// Signs the ticket for one placement of a player on a server.
///
/// # Errors
/// Signing failed.
pub fn issue(
    key: &TokenHash,
    server: &ServerId,
    player: &PlayerId,
    placement: Placement,
    expires: Time,
) -> Result<String, jsonwebtoken::errors::Error> {
    let claims = Claims {
        sub: player.to_string(),
        aud: server.to_string(),
        exp: expires.0.saturating_add(999).div_euclid(1_000),
        jti: placement.get().to_string(),
    };
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(key.bytes()))
}

/// Verifies a ticket that a player presented to a server, and returns its placement and expiry.
///
/// An expired ticket is no error: the caller decides about the expiry, because a repeated call may arrive late.
///
/// # Errors
/// The ticket was not issued for this player on this server.
pub fn read(key: &TokenHash, server: &ServerId, player: &PlayerId, ticket: &str) -> Result<PresentedTicket, BadTicket> {
    if ticket.len() > LONGEST {
        return Err(BadTicket);
    }
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_exp = false;
    validation.set_audience(&[server.as_str()]);
    validation.sub = Some(player.to_string());
    validation.set_required_spec_claims(&["exp", "aud", "sub"]);
    let claims = jsonwebtoken::decode::<Claims>(ticket, &DecodingKey::from_secret(key.bytes()), &validation)
        .map_err(|_| BadTicket)?
        .claims;
    let placement = claims.jti.parse().ok().and_then(Placement::new).ok_or(BadTicket)?;
    Ok(PresentedTicket { placement, expires: Time(claims.exp.saturating_mul(1_000)) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    fn ids() -> (TokenHash, ServerId, PlayerId, Placement) {
        (
            TokenHash::of("token"),
            ServerId::parse("s1").unwrap(),
            PlayerId::parse("auth0|p1").unwrap(),
            Placement::new(1_700_000_000_123).unwrap(),
        )
    }

    #[test]
    fn a_ticket_is_read_back_as_it_was_issued() {
        let (key, server, player, placement) = ids();
        let ticket = issue(&key, &server, &player, placement, Time(1_700_000_060_500)).unwrap();
        let read = read(&key, &server, &player, &ticket).unwrap();
        assert_eq!(read, PresentedTicket { placement, expires: Time(1_700_000_061_000) });
    }

    #[test]
    fn a_ticket_is_valid_only_for_its_own_player_server_and_key() {
        let (key, server, player, placement) = ids();
        let ticket = issue(&key, &server, &player, placement, Time(1_700_000_060_500)).unwrap();
        assert!(read(&TokenHash::of("other"), &server, &player, &ticket).is_err());
        assert!(read(&key, &ServerId::parse("s2").unwrap(), &player, &ticket).is_err());
        assert!(read(&key, &server, &PlayerId::parse("p2").unwrap(), &ticket).is_err());
        let mut forged = ticket.into_bytes();
        let last = forged.last_mut().unwrap();
        *last = if *last == b'A' { b'B' } else { b'A' };
        assert!(read(&key, &server, &player, &String::from_utf8(forged).unwrap()).is_err());
    }

    #[test]
    fn a_text_that_is_not_a_ticket_is_refused() {
        let (key, server, player, placement) = ids();
        for text in ["", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", &"x".repeat(3_000)] {
            assert_eq!(read(&key, &server, &player, text), Err(BadTicket), "{text}");
        }
        let claims =
            Claims { sub: player.to_string(), aud: server.to_string(), exp: 1, jti: placement.get().to_string() };
        let other = Header::new(Algorithm::HS512);
        let text = jsonwebtoken::encode(&other, &claims, &EncodingKey::from_secret(key.bytes())).unwrap();
        assert_eq!(read(&key, &server, &player, &text), Err(BadTicket));
    }
}
