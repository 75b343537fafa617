//! Text that is safe on a terminal. Depends on no other module, so that errors and views can both use it.

use std::borrow::Cow;

/// Replaces control characters, which a terminal would execute. Text from outside is not trusted: a game server chooses
/// its own metadata.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect())
    } else {
        Cow::Borrowed(text)
    }
}
