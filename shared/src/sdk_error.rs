//! The text of an SDK error, without anything that the call or its answer carried.

use std::error::Error;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;

/// The causes of an SDK error, from the outermost to the innermost, with AWS's code and message.
///
/// The SDK's own `Debug` text ends in the whole request and response, and with them in a server's token. This text has neither.
pub(crate) fn causes<E: ProvideErrorMetadata + Error>(error: &E) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    for said in [error.code(), error.message()].into_iter().flatten().filter(|said| !said.is_empty()) {
        if !text.contains(said) {
            text = format!("{text}: {said}");
        }
    }
    text
}
