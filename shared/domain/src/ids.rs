//! Validated id types: each has one constructor, so a value of the type is always in range.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};

/// The error of a text that is not a valid id: the kind of the id, its greatest length and its alphabet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 1 to {max} characters of {alphabet}, and not `.` or `..`")]
pub struct BadId {
    what: &'static str,
    max: usize,
    alphabet: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $alphabet:literal, $extra:pat) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            #[doc = concat!("Parses ", $what, ".")]
            ///
            /// # Errors
            /// The text is empty, too long, or has a character outside the alphabet.
            pub fn parse(text: &str) -> Result<Self, BadId> {
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, $extra);
                // URL parsers resolve `.` and `..` as steps in a path, so an id of this form could never be sent.
                let is_step = matches!(text, "." | "..");
                if (1..=$max).contains(&text.len()) && text.bytes().all(allowed) && !is_step {
                    Ok(Self(text.into()))
                } else {
                    Err(BadId { what: $what, max: $max, alphabet: $alphabet })
                }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// The id of a dedicated server, chosen by OWMM before the server starts (a ULID).
    ServerId,
    "a server id",
    64,
    "A-Za-z0-9._:-",
    b'.' | b'_' | b':' | b'-'
);
id!(
    /// The name of a pool.
    PoolName,
    "a pool name",
    64,
    "A-Za-z0-9._:-",
    b'.' | b'_' | b':' | b'-'
);
id!(
    /// The id of a player: the `sub` claim of the identity provider's token.
    PlayerId,
    "a player id",
    128,
    "A-Za-z0-9._:|@=+-",
    b'.' | b'_' | b':' | b'|' | b'@' | b'=' | b'+' | b'-'
);

/// The SHA-256 hash of a server's token. The table stores the hash instead of the token, and tickets for the server are
/// signed with it. Its `Debug` output does not contain the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// The hash with these bytes; `None` unless there are exactly 32.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn ids_are_accepted_at_both_ends_of_their_length_range_and_refused_beyond() {
        for (characters, server, player) in [
            (0, false, false),
            (1, true, true),
            (64, true, true),
            (65, false, true),
            (128, false, true),
            (129, false, false),
        ] {
            let id = "a".repeat(characters);
            assert_eq!(ServerId::parse(&id).is_ok(), server, "a server id of {characters} characters");
            assert_eq!(PlayerId::parse(&id).is_ok(), player, "a player id of {characters} characters");
        }
    }

    #[test]
    fn player_ids_allow_characters_that_pool_and_server_ids_refuse() {
        assert!(PlayerId::parse("auth0|a.b@c.d+e=f:g_h-1").is_ok());
        for bad in [".", "..", "a b", "a/b", "a%20b", "a\0b", "é", "a#b"] {
            assert!(PlayerId::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["a|b", "a@b", "a+b", "a=b"] {
            assert!(PoolName::parse(bad).is_err(), "{bad:?}");
            assert!(ServerId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_valid_id_prints_unchanged_and_an_invalid_one_returns_an_error_with_the_rule() {
        let id = ServerId::parse("s-1").unwrap();
        assert_eq!((id.as_str(), format!("{id} {id:?}")), ("s-1", "s-1 s-1".to_owned()));
        let error = ServerId::parse("").unwrap_err().to_string();
        assert_eq!(error, "a server id must be 1 to 64 characters of A-Za-z0-9._:-, and not `.` or `..`");
    }

    #[test]
    fn a_token_hash_is_restored_from_its_32_bytes_and_from_no_other_number() {
        let hash = TokenHash::of("secret");
        assert_eq!(TokenHash::from_bytes(hash.bytes()), Some(hash));
        assert_eq!(TokenHash::from_bytes(&[0; 31]), None);
        assert_ne!(hash, TokenHash::of("another"));
    }

    #[test]
    fn the_debug_output_of_a_token_hash_hides_its_bytes() {
        assert_eq!(format!("{:?}", TokenHash::of("secret")), "TokenHash(..)");
    }
}
