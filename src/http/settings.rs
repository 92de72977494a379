//! What an operator can set about the edge, as plain values.

use std::time::Duration;

use soma_config::{Auth, CentralizedConfig, RateLimit};

/// Every setting of the edge.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Who gets in.
    pub auth: Auth,
    /// How much one subject may ask for.
    pub rate: RateLimit,
    /// How much is taken.
    pub limits: Limits,
    /// How streams behave.
    pub streams: Streams,
}

impl From<&CentralizedConfig> for Settings {
    fn from(config: &CentralizedConfig) -> Self {
        let gateway = &config.gateway;
        Self {
            auth: config.auth.clone(),
            rate: config.rate_limit.clone(),
            limits: Limits {
                max_body: gateway.max_body.bytes(),
                max_upload: gateway.max_upload.bytes(),
                body_read_timeout: gateway.body_read_timeout,
                ..Limits::default()
            },
            streams: Streams {
                buffer: gateway.sse_buffer,
                keepalive: gateway.sse_keepalive,
                ..Streams::default()
            },
        }
    }
}

/// How much is taken.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most bytes of a body that is not an upload.
    pub max_body: usize,
    /// The most bytes of the files of one upload.
    pub max_upload: usize,
    /// How long a body may take to arrive; an upload, how long it may stand still.
    pub body_read_timeout: Duration,
    /// The longest that `?wait=` may ask for.
    pub max_wait: Duration,
    /// How long `POST /v1/chat/completions` waits for the end of its turn.
    pub completion_timeout: Duration,
    /// How long, in a drain, a request still waits for its turn to end: less than the requests in
    /// flight are given before they are cut off.
    pub drain_patience: Duration,
    /// How long one call of a port may take.
    pub port_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: 1 << 20,
            max_upload: 25 << 20,
            body_read_timeout: Duration::from_secs(10),
            max_wait: Duration::from_mins(5),
            // A turn may work for 10 minutes and wait for 15.
            completion_timeout: Duration::from_mins(30),
            drain_patience: Duration::from_secs(5),
            port_deadline: Duration::from_secs(10),
        }
    }
}

/// How streams behave.
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    /// How many frames a reader may be behind before it is dropped.
    pub buffer: usize,
    /// How long a stream is silent before a keep-alive is sent.
    pub keepalive: Duration,
    /// How long a reader of older events may take nothing before it is dropped.
    pub stall: Duration,
    /// How often the store is read while the live port is down.
    pub poll: Duration,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            buffer: 256,
            keepalive: Duration::from_secs(10),
            stall: Duration::from_secs(10),
            poll: Duration::from_secs(1),
        }
    }
}
