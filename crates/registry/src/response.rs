//! Parts of responses that registries and their token endpoints have in common.

use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, StatusCode};

/// Returns whether another attempt can succeed after this status.
pub(crate) fn is_transient(status: StatusCode) -> bool {
    status.is_server_error()
        || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status)
}

/// Formats a status with the registry's own words.
pub(crate) fn with_details(status: StatusCode, details: &str) -> String {
    if details.is_empty() {
        status.to_string()
    } else {
        format!("{status} ({details})")
    }
}

/// Returns the media type of a response, without parameters. Empty if there is none.
pub(crate) fn content_type(response: &Response) -> String {
    let value = response.headers().get(CONTENT_TYPE);
    let value = value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Reads the body of a response. `None` if it has more than `limit` bytes.
pub(crate) async fn read(
    response: &mut Response,
    limit: usize,
) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > limit {
            return Ok(None);
        }
    }
    Ok(Some(body))
}
