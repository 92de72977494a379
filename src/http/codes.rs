//! The stable error codes: what each means, which HTTP status it has and what to do about it.

use actix_web::http::StatusCode;

/// A stable error code. Clients may rely on `name`; the words may change.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Code {
    /// The `code` of the problem details.
    pub(super) name: &'static str,
    /// The HTTP status, as a number.
    pub(super) status: u16,
    /// The `title` of the problem details.
    pub(super) title: &'static str,
    /// What whoever meets it can do.
    pub(super) advice: &'static str,
}

impl Code {
    /// Returns the HTTP status.
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

macro_rules! codes {
    ($($constant:ident = $status:literal $name:literal: $title:literal, $advice:literal;)*) => {
        $(#[doc = $title] pub(super) const $constant: &Code = &Code {
            name: $name, status: $status, title: $title, advice: $advice,
        };)*

        /// Every code, by status.
        pub(super) const ALL: &[&Code] = &[$($constant),*];
    };
}

codes! {
    MALFORMED_JSON = 400 "malformed_json": "The body is not JSON",
        "Send one JSON document in UTF-8; `detail` names the place. Nesting is limited to 128 levels.";
    INVALID_BODY = 400 "invalid_body": "The body does not have the expected shape",
        "Compare the body with `/openapi.json`; `detail` names the field.";
    INVALID_QUERY = 400 "invalid_query": "A query parameter is not understood",
        "Compare the query with `/openapi.json`; `detail` names the parameter.";
    INVALID_ID = 400 "invalid_id": "An id in the path or a header is malformed",
        "Session, event, memory and attachment ids are UUIDs; dead letter ids are numbers.";
    INVALID_IDEMPOTENCY_KEY = 400 "invalid_idempotency_key": "The Idempotency-Key header is malformed",
        "Send 1 to 255 printable ASCII characters without blanks.";
    INVALID_TEXT = 400 "invalid_text": "A text contains the character NUL",
        "Remove U+0000: no store keeps it.";
    RESERVED_METADATA = 400 "reserved_metadata": "Metadata uses a name that the platform sets",
        "Rename the entry that `detail` names.";
    UNKNOWN_PERSONA = 400 "unknown_persona": "There is no such persona",
        "List them with `GET /v1/personas`, or add it with `PUT /v1/personas/{id}`.";
    UNKNOWN_ATTACHMENT = 400 "unknown_attachment": "There is no such attachment",
        "Upload the file with `POST /v1/uploads` first and use the id of the answer.";
    UNKNOWN_TOOL = 400 "unknown_tool": "There is no such tool",
        "List them with `GET /v1/tools`.";
    BAD_ARGUMENTS = 400 "bad_arguments": "The arguments do not match the tool's schema",
        "Compare them with the tool's `parameters` in `GET /v1/tools`.";
    INVALID_UPLOAD = 400 "invalid_upload": "The multipart body is malformed",
        "Send `multipart/form-data` with one or more parts called `files`, each with a file name.";
    INVALID_CURSOR = 400 "invalid_cursor": "The cursor was not given out by this list",
        "Begin again without `cursor`.";
    UNSUPPORTED_PARAMETER = 400 "unsupported_parameter": "A parameter asks for what is not offered",
        "Leave out the parameter that `detail` names.";
    TOKEN_MISSING = 401 "token_missing": "A bearer token or API key is needed",
        "Send `Authorization: Bearer <token or key>`.";
    TOKEN_INVALID = 401 "token_invalid": "The token or key is not valid",
        "Get a new one; it is malformed, expired, revoked, or not meant for this service.";
    ADMIN_REQUIRED = 403 "admin_required": "This needs the admin scope",
        "Use a token with the admin scope or an admin key.";
    FOREIGN_ORIGIN = 403 "foreign_origin": "Without authentication only programs of this machine are served",
        "Call the server as `localhost` or `127.0.0.1` and not from a page of another site, or set `SA01_AUTH_REQUIRED=true`.";
    POLICY_DENIED = 403 "policy_denied": "The policy says no",
        "Ask whoever keeps the policy; `detail` says why.";
    NOT_FOUND = 404 "not_found": "There is no such thing",
        "Check the id; what belongs to another tenant or was deleted does not exist for you.";
    NO_SUCH_ROUTE = 404 "no_such_route": "There is no such path",
        "See `/docs` for the paths.";
    MODEL_NOT_FOUND = 404 "model_not_found": "There is no such model",
        "List them with `GET /v1/models`.";
    METHOD_NOT_ALLOWED = 405 "method_not_allowed": "The path does not take this method",
        "Use a method that the `Allow` header names.";
    REQUEST_TIMEOUT = 408 "request_timeout": "The body did not arrive in time",
        "Send the whole body within the body read time-out (10 s unless configured).";
    NOTHING_TO_CANCEL = 409 "nothing_to_cancel": "Nothing is being done that could be cancelled",
        "Nothing: the turn has ended, and its terminal event tells how.";
    CANCELLED = 409 "cancelled": "The turn was cancelled",
        "Nothing; somebody asked for it.";
    REQUEST_IN_PROGRESS = 409 "request_in_progress": "A request with the same Idempotency-Key is being answered",
        "Wait for `Retry-After` and repeat the request: it answers what the first one did.";
    SESSION_DELETED = 410 "session_deleted": "The session was deleted",
        "Begin a new session; this id takes no message ever again.";
    BODY_TOO_LARGE = 413 "body_too_large": "The body is too large",
        "Send less; the limits are settings of the server (`SA01_GATEWAY_MAX_BODY`, `SA01_GATEWAY_MAX_UPLOAD`).";
    URI_TOO_LONG = 414 "uri_too_long": "The path and query are too long",
        "Send at most 8 KiB.";
    UNSUPPORTED_MEDIA_TYPE = 415 "unsupported_media_type": "The body has the wrong content type",
        "Send `Content-Type: application/json`, or `multipart/form-data` for uploads.";
    IDEMPOTENCY_KEY_REUSED = 422 "idempotency_key_reused": "The Idempotency-Key was used with another body",
        "Draw a new key for each new request; repeat a request with the same bytes.";
    REPLAY_REFUSED = 422 "replay_refused": "The dead letter can never become work",
        "Drop it with `DELETE`.";
    RATE_LIMITED = 429 "rate_limited": "Too many requests",
        "Wait for `Retry-After` seconds.";
    TENANT_BACKLOG_FULL = 429 "tenant_backlog_full": "The tenant has too many unanswered messages",
        "Wait until some are answered, or cancel some.";
    HEADERS_TOO_LARGE = 431 "headers_too_large": "The headers are too large",
        "Send at most 32 KiB of headers.";
    INTERNAL = 500 "internal": "Something is broken in the server",
        "Report it with the request id, which finds the cause in the log.";
    TURN_FAILED = 502 "turn_failed": "The turn ended without an answer",
        "`detail` says why; the dead letter list has the whole story.";
    STORE_UNAVAILABLE = 503 "store_unavailable": "The store does not answer",
        "Repeat the request after `Retry-After`, with the same Idempotency-Key.";
    OUTCOME_UNKNOWN = 503 "outcome_unknown": "It is not known whether the request had an effect",
        "Repeat the request after `Retry-After`, with the same Idempotency-Key.";
    POLICY_UNAVAILABLE = 503 "policy_unavailable": "The policy engine does not answer, and no answer means no",
        "Repeat the request after `Retry-After`.";
    IDENTITY_UNAVAILABLE = 503 "identity_unavailable": "The keys that tokens are checked with cannot be had",
        "Repeat the request after `Retry-After`; operators: look at the JWKS URL.";
    LIVE_UNAVAILABLE = 503 "live_unavailable": "The live port does not answer",
        "Repeat the request after `Retry-After`.";
    SERVICE_RESTARTING = 503 "service_restarting": "A service is restarting",
        "Repeat the request after `Retry-After`, with the same Idempotency-Key.";
    OVERLOADED = 503 "overloaded": "The server has as much to do as it may",
        "Repeat the request after `Retry-After`, with the same Idempotency-Key.";
    BACKLOG_FULL = 503 "backlog_full": "Too many messages wait to be answered",
        "Repeat the request after `Retry-After`.";
    DRAINING = 503 "draining": "The server is shutting down",
        "Repeat the request: another replica, or the next process, answers it.";
    TIMED_OUT = 504 "timed_out": "The answer did not come in time",
        "The message is accepted and will be answered; read it with `GET /v1/messages/{event_id}`.";
}
