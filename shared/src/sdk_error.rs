//! The text of an AWS SDK error, without any content of the request or the response.

use std::error::Error;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;

/// Joins the causes of an SDK error, from the outermost to the innermost, with AWS's error code and message.
///
/// The SDK's own `Debug` text contains the whole request and response, and so a server's token. This text has neither.
pub(crate) fn causes<E: ProvideErrorMetadata + Error>(error: &E) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    for part in [error.code(), error.message()].into_iter().flatten().filter(|part| !part.is_empty()) {
        if !text.contains(part) {
            text = format!("{text}: {part}");
        }
    }
    text
}
