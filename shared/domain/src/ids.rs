//! Names as types: each has one constructor, so a value of the type is always in range.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 1 to {max} of {alphabet}, and not `.` or `..`")]
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
                // `.` and `..` are what URL parsers take for steps in a path, so such an id could never be sent.
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
    /// A player: what the identity provider puts into `sub`.
    PlayerId,
    "a player id",
    128,
    "A-Za-z0-9._:|@=+-",
    b'.' | b'_' | b':' | b'|' | b'@' | b'=' | b'+' | b'-'
);

/// The SHA-256 of a server's token: what the table keeps of it, and the key that tickets for the server are
/// signed with. Neither is ever shown: its `Debug` says only that it is there.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// The hash that these bytes are; `None` unless there are 32 of them.
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
    fn ids_are_taken_at_both_ends_of_their_range_and_refused_beyond() {
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
    fn each_alphabet_is_its_own() {
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
    fn an_id_is_shown_as_it_was_given() {
        let id = ServerId::parse("s-1").unwrap();
        assert_eq!((id.as_str(), format!("{id} {id:?}")), ("s-1", "s-1 s-1".to_owned()));
        let reply = ServerId::parse("").unwrap_err().to_string();
        assert_eq!(reply, "a server id must be 1 to 64 of A-Za-z0-9._:-, and not `.` or `..`");
    }

    #[test]
    fn a_hash_is_read_as_it_was_written() {
        let hash = TokenHash::of("secret");
        assert_eq!(TokenHash::from_bytes(hash.bytes()), Some(hash));
        assert_eq!(TokenHash::from_bytes(&[0; 31]), None);
        assert_ne!(hash, TokenHash::of("another"));
    }

    #[test]
    fn the_hash_of_a_token_is_not_shown() {
        assert_eq!(format!("{:?}", TokenHash::of("secret")), "TokenHash(..)");
    }
}
