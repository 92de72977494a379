//! Sections about the edge: what is listened on, who gets in, how much is taken.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::{
    check,
    section::section,
    value::{JwtAlgorithm, Names, Secret, ServerUrl, Size},
};

section! {
    /// The HTTP edge.
    Gateway {
        /// Where the API listens; port `0` takes a free one.
        "SA01_GATEWAY_BIND" bind: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8010));

        /// Where health and metrics listen, on a thread of their own.
        "SA01_ADMIN_BIND" admin_bind: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 9400));

        /// How long a request's body may take to arrive.
        #[validate(custom(function = check::positive))]
        "SA01_GATEWAY_BODY_READ_TIMEOUT" body_read_timeout: Duration = Duration::from_secs(10);

        /// The largest body of a request, uploads apart.
        #[validate(range(min = Size::from_kib(1), message = "must be 1KiB or more"))]
        "SA01_GATEWAY_MAX_BODY" max_body: Size = Size::from_mib(1);

        /// The largest upload.
        #[validate(range(min = Size::from_kib(1), message = "must be 1KiB or more"))]
        "SA01_GATEWAY_MAX_UPLOAD" max_upload: Size = Size::from_mib(25);

        /// How many turns of one tenant may be queued before it is told to wait (429).
        #[validate(range(min = 1, message = "must be 1 or more"))]
        "SA01_GATEWAY_BACKLOG_PER_TENANT" backlog_per_tenant: u64 = 10_000;

        /// How many turns may be queued in all before everyone is told to wait (503).
        #[validate(range(min = 1, message = "must be 1 or more"))]
        "SA01_GATEWAY_BACKLOG_TOTAL" backlog_total: u64 = 100_000;

        /// How many events a slow reader of a stream may be behind before it is dropped; it may
        /// resume.
        #[validate(range(min = 1, max = 65_536, message = "must be from 1 to 65536"))]
        "SA01_GATEWAY_SSE_BUFFER" sse_buffer: usize = 256;

        /// How long a stream is silent before a keep-alive is sent.
        #[validate(custom(function = check::positive))]
        "SA01_GATEWAY_SSE_KEEPALIVE" sse_keepalive: Duration = Duration::from_secs(10);

        /// Whether `/ready` also says no while the store cannot be reached. Off, as a shared store
        /// that is down would take every replica out of service at once.
        "SA01_GATEWAY_READY_NEEDS_STORE" ready_needs_store: bool = false;
    }
}

section! {
    /// Who gets in.
    Auth {
        /// Whether a request needs a token or an API key. Without, everything listens on loopback
        /// addresses only.
        "SA01_AUTH_REQUIRED" required: bool = false;

        /// The secret that HS256 tokens are signed with; 32 bytes or more.
        "SA01_AUTH_JWT_SECRET" jwt_secret: Option<Secret> = None, example "SECRET";

        /// The public key, in PEM form, that RS256 or ES256 tokens are checked with.
        "SA01_AUTH_JWT_PUBLIC_KEY" jwt_public_key: Option<Secret> = None,
            example "-----BEGIN PUBLIC KEY-----...";

        /// Where the public keys of the token issuer are published.
        #[validate(custom(function = check::http))]
        "SA01_AUTH_JWKS_URL" jwks_url: Option<ServerUrl> = None,
            example "https://id.example.org/.well-known/jwks.json";

        /// How long published keys hold before they are fetched again.
        #[validate(custom(function = check::positive))]
        "SA01_AUTH_JWKS_CACHE_TTL" jwks_cache_ttl: Duration = Duration::from_mins(5);

        /// How long fetching the published keys may take.
        #[validate(custom(function = check::positive))]
        "SA01_AUTH_JWKS_TIMEOUT" jwks_timeout: Duration = Duration::from_secs(3);

        /// The signatures that are accepted.
        "SA01_AUTH_JWT_ALGORITHMS" jwt_algorithms: Vec<JwtAlgorithm> =
            vec![JwtAlgorithm::Hs256, JwtAlgorithm::Rs256, JwtAlgorithm::Es256];

        /// The audience that a token must name; not checked if not set.
        "SA01_AUTH_JWT_AUDIENCE" jwt_audience: Option<String> = None, example "somaagent";

        /// The issuer that a token must name; not checked if not set.
        "SA01_AUTH_JWT_ISSUER" jwt_issuer: Option<String> = None, example "https://id.example.org";

        /// By how much the clocks of issuer and server may differ.
        "SA01_AUTH_JWT_LEEWAY" jwt_leeway: Duration = Duration::from_secs(10);

        /// The claims that may name the tenant; the first that a token has counts.
        "SA01_AUTH_JWT_TENANT_CLAIMS" jwt_tenant_claims: Names =
            ["tenant", "org", "customer"].map(str::to_owned).to_vec();

        /// The scope that an administrator's token has.
        "SA01_AUTH_ADMIN_SCOPE" admin_scope: String = "admin".to_owned();
    }
}

impl Auth {
    /// Whether there is anything to check a token with.
    pub fn has_key_source(&self) -> bool {
        self.jwt_secret.is_some() || self.has_public_key_source()
    }

    /// Whether there is a public key to check a token with.
    pub fn has_public_key_source(&self) -> bool {
        self.jwt_public_key.is_some() || self.jwks_url.is_some()
    }
}

section! {
    /// How much one subject may ask for.
    RateLimit {
        /// How many requests a second one subject may make in the long run; `0`: any number.
        "SA01_RATE_LIMIT_PER_SECOND" per_second: u32 = 20;

        /// How many requests one subject may make at once.
        #[validate(range(min = 1, message = "must be 1 or more"))]
        "SA01_RATE_LIMIT_BURST" burst: u32 = 40;
    }
}

impl RateLimit {
    /// Whether there is a limit at all.
    pub fn is_on(&self) -> bool {
        self.per_second > 0
    }
}

section! {
    /// The command-line tools that talk to a running server.
    Client {
        /// The API key or token that they send; none if not set.
        "SA01_CLIENT_KEY" key: Option<Secret> = None, example "KEY";
    }
}
