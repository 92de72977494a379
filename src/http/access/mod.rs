//! Who is asking: bearer JWTs and API keys.
//!
//! With authentication off (only in `dev`, where the server listens on loopback) everyone is the
//! subject `dev` of the tenant `public` and an administrator, but for pages of other sites in a
//! browser of this machine.

mod api_key;
mod jwks;
mod jwt;
mod local;

use actix_web::{
    HttpRequest,
    http::header::{self, HeaderMap},
};
use soma_config::Auth;
use soma_contract::{TenantId, access::Caller};

pub(super) use self::api_key::{hash, new_key};
use self::{api_key::TouchLog, jwt::Tokens};
use super::{codes, edge::Edge, problem::Problem};

/// The longest token or key that is looked at.
const MAX_TOKEN: usize = 8 * 1024;

/// Why the settings are of no use.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The public key is neither an RSA nor a P-256 key in PEM form.
    #[error("the public key for tokens is neither an RSA nor a P-256 key in PEM form")]
    PublicKey,
    /// The client for the published keys cannot be made.
    #[error("the client for the published keys cannot be made: {0}")]
    Client(String),
}

/// Says whether the settings of authentication can be used.
///
/// # Errors
///
/// A key or client that cannot be made of them.
pub fn check_auth(settings: &Auth) -> Result<(), AccessError> {
    Tokens::new(settings).map(drop)
}

/// Establishes who is asking.
pub(super) struct Access {
    required: bool,
    tokens: Tokens,
    touched: TouchLog,
}

impl Access {
    pub(super) fn new(settings: &Auth) -> Result<Self, AccessError> {
        Ok(Self {
            required: settings.required,
            tokens: Tokens::new(settings)?,
            touched: TouchLog::default(),
        })
    }
}

/// Returns the caller, or why there is none.
pub(super) async fn caller(edge: &Edge, request: &HttpRequest) -> Result<Caller, Problem> {
    if !edge.access().required {
        local::check(request)?;
        return Ok(everyone());
    }
    let token = bearer(request.headers())?;
    if token.starts_with(api_key::PREFIX) {
        return api_key::caller(edge, &edge.access().touched, token).await;
    }
    edge.access().tokens.caller(edge, token).await
}

/// The caller where nobody needs a token.
fn everyone() -> Caller {
    Caller { tenant: TenantId::public(), subject: "dev".to_owned(), admin: true }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(Problem::of(codes::TOKEN_MISSING));
    };
    let text = value.to_str().map_err(|_opaque| invalid("the header is not ASCII"))?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(invalid("only the Bearer scheme is understood"));
    }
    match token.trim() {
        "" => Err(Problem::of(codes::TOKEN_MISSING)),
        token if token.len() > MAX_TOKEN => Err(invalid("the token is too long")),
        token => Ok(token),
    }
}

/// The caller learns that the token is of no use, not more than helps an honest one.
fn invalid(detail: &str) -> Problem {
    Problem::new(codes::TOKEN_INVALID, detail)
}

/// Which rows an administrator reaches: those of the tenant `public`, which is the operator's own,
/// reach every tenant's; all others only their own tenant's.
pub(super) fn reach(caller: &Caller) -> Option<TenantId> {
    (caller.tenant != TenantId::public()).then(|| caller.tenant.clone())
}

/// A tenant's name may become part of keys and paths elsewhere.
pub(super) fn is_tenant(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !text.starts_with('.')
}

fn is_subject(text: &str) -> bool {
    (1..=256).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn header(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        headers
    }

    #[test]
    fn only_a_bearer_token_is_a_token() {
        assert_eq!(bearer(&header("Bearer abc")).unwrap(), "abc");
        assert_eq!(bearer(&header("bearer abc")).unwrap(), "abc");
        let missing = bearer(&HeaderMap::new()).unwrap_err();
        assert_eq!(missing.code(), codes::TOKEN_MISSING);
        assert_eq!(bearer(&header("Bearer ")).unwrap_err().code(), codes::TOKEN_MISSING);
        for bad in ["Basic dXNlcjpwYXNz".to_owned(), format!("Bearer {}", "x".repeat(9_000))] {
            assert_eq!(bearer(&header(&bad)).unwrap_err().code(), codes::TOKEN_INVALID);
        }
    }

    #[test]
    fn names_that_could_escape_are_no_tenants() {
        assert!(is_tenant("acme-1.example"));
        for bad in ["", "..", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(!is_tenant(bad), "{bad}");
        }
    }

    #[test]
    fn an_administrator_of_a_tenant_reaches_that_tenant_alone() {
        assert_eq!(reach(&everyone()), None);
        let own = TenantId("acme".to_owned());
        let caller = Caller { tenant: own.clone(), subject: "a".to_owned(), admin: true };
        assert_eq!(reach(&caller), Some(own));
    }
}
