//! Changes that are asked for while the daemon runs: how a request is read, how it is carried out, and how it is refused.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::api::{Source, json, refuse};

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt}: {reason}")]
pub struct Refusal {
    /// What was attempted.
    pub attempt: String,
    /// Why not, and what to do.
    pub reason: String,
    /// As HTTP has it.
    pub status: StatusCode,
}

/// Reads the body of a request that attempts something.
///
/// # Errors
///
/// It is not understood.
pub fn parsed<T: DeserializeOwned>(attempt: &str, body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal {
        attempt: attempt.to_owned(),
        reason: format!("the request is not understood: {error}"),
        status: StatusCode::BAD_REQUEST,
    })
}

/// Does what is asked beside the control thread, whether or not the client waits for the answer.
pub async fn answer<T: Send + 'static, R: Serialize + Send + 'static>(
    source: Arc<Source>,
    ask: Result<T, Refusal>,
    carry_out: fn(&T, &Source) -> Result<R, Refusal>,
) -> Response {
    let ask = match ask {
        Ok(ask) => ask,
        Err(refusal) => return refuse(refusal.status, &refusal.to_string()),
    };
    match tokio::task::spawn_blocking(move || carry_out(&ask, &source)).await {
        Ok(Ok(done)) => json(StatusCode::OK, &done),
        Ok(Err(refusal)) => refuse(refusal.status, &refusal.to_string()),
        Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_not_understood_says_what_was_attempted() {
        assert_eq!(parsed::<u8>("count", b"7").unwrap(), 7);
        let refusal = parsed::<u8>("count", b"seven").unwrap_err();
        let text = refusal.to_string();
        assert!(
            text.starts_with("cannot count: the request is not understood: "),
            "{text}"
        );
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
    }
}
