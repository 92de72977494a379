//! Reads bodies: never more than the limit, never longer than the time-out.

use std::time::Duration;

use actix_web::{
    http::header::{self, HeaderMap},
    web::{Bytes, BytesMut, Payload},
};
use futures::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::{codes, problem::Problem};

/// How much of a body a route takes, and how long it may take to arrive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The most bytes.
    pub(super) limit: usize,
    /// The time-out.
    pub(super) timeout: Duration,
    /// Whether the time-out begins anew with each piece: for uploads, which may be long.
    pub(super) per_piece: bool,
}

/// Reads a whole body.
pub(super) async fn read(
    headers: &HeaderMap,
    mut payload: Payload,
    bounds: Bounds,
) -> Result<Bytes, Problem> {
    let announced = announced_length(headers);
    if announced.is_some_and(|length| length > bounds.limit) {
        return Err(too_large(bounds.limit));
    }
    let mut deadline = Instant::now() + bounds.timeout;
    let mut whole = BytesMut::new();
    loop {
        let piece =
            timeout_at(deadline, payload.next()).await.map_err(|_elapsed| too_slow(bounds))?;
        let piece = match piece {
            None => return Ok(whole.freeze()),
            Some(Ok(piece)) => piece,
            Some(Err(error)) => {
                return Err(Problem::new(
                    codes::INVALID_BODY,
                    format!("the body broke off: {error}"),
                ));
            }
        };
        if whole.len().saturating_add(piece.len()) > bounds.limit {
            return Err(too_large(bounds.limit));
        }
        if whole.is_empty() && announced == Some(piece.len()) {
            return Ok(piece);
        }
        whole.extend_from_slice(&piece);
        if bounds.per_piece {
            deadline = Instant::now() + bounds.timeout;
        }
    }
}

fn announced_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(limit: usize) -> Problem {
    Problem::new(codes::BODY_TOO_LARGE, format!("at most {limit} bytes are taken"))
}

fn too_slow(bounds: Bounds) -> Problem {
    let what = if bounds.per_piece { "nothing more came" } else { "the body was not complete" };
    Problem::new(codes::REQUEST_TIMEOUT, format!("{what} within {} s", bounds.timeout.as_secs()))
}
