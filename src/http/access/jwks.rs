//! The published keys of a token issuer, cached.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm},
};
use tokio::time::Instant;

use super::{AccessError, jwt::VerifyingKey};
use crate::http::{codes, edge::Edge, problem::Problem};

/// An unknown key id may ask for the keys anew, but not more often than this.
const MIN_REFETCH: Duration = Duration::from_secs(10);
const MAX_DOCUMENT: usize = 256 * 1024;

/// The keys of one URL.
pub(super) struct Jwks {
    url: String,
    ttl: Duration,
    timeout: Duration,
    client: reqwest::Client,
    state: Mutex<State>,
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    keys: Vec<NamedKey>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
}

struct NamedKey {
    id: Option<String>,
    key: VerifyingKey,
}

/// What is known of the keys with one id.
struct Known {
    keys: Vec<VerifyingKey>,
    wants_fetch: bool,
    was_fetched: bool,
}

impl Jwks {
    pub(super) fn new(url: &str, ttl: Duration, timeout: Duration) -> Result<Self, AccessError> {
        let client = reqwest::Client::builder()
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| AccessError::Client(error.to_string()))?;
        let (state, fetching) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { url: url.to_owned(), ttl, timeout, client, state, fetching })
    }

    /// Returns the keys that may have signed a token with this key id.
    ///
    /// One request at a time fetches them. Others wait for it only where they have no key; an
    /// issuer that is away leaves the keys that were fetched in use.
    pub(super) async fn keys(
        &self,
        edge: &Edge,
        id: Option<&str>,
    ) -> Result<Vec<VerifyingKey>, Problem> {
        let known = self.known(id);
        if !known.wants_fetch {
            return known.usable();
        }
        let turn = if known.keys.is_empty() {
            Some(self.fetching.lock().await)
        } else {
            self.fetching.try_lock().ok()
        };
        if turn.is_some() && self.known(id).wants_fetch {
            self.refresh(edge).await;
        }
        self.known(id).usable()
    }

    async fn refresh(&self, edge: &Edge) {
        let tried = Instant::now();
        self.state().tried = Some(tried);
        match self.fetch(edge).await {
            Ok(keys) => {
                let mut state = self.state();
                state.keys = keys;
                state.fetched = Some(tried);
            }
            Err(error) => tracing::warn!(%error, url = %self.url, "no keys for tokens"),
        }
    }

    fn known(&self, id: Option<&str>) -> Known {
        let state = self.state();
        let keys = state.matching(id);
        let wants_fetch = state.wants_fetch(keys.is_empty(), self.ttl);
        Known { keys, wants_fetch, was_fetched: state.fetched.is_some() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self, edge: &Edge) -> Result<Vec<NamedKey>, String> {
        let request = self.client.get(&self.url);
        let document = edge
            .parts()
            .io
            .call(self.timeout, async move {
                let response = request.send().await?.error_for_status()?;
                response.bytes().await
            })
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        if document.len() > MAX_DOCUMENT {
            return Err(format!("the document has {} bytes", document.len()));
        }
        let set: JwkSet = serde_json::from_slice(&document).map_err(|error| error.to_string())?;
        Ok(set.keys.iter().filter_map(named_key).collect())
    }
}

impl Known {
    /// Without any document there is no telling whether a token is good.
    fn usable(self) -> Result<Vec<VerifyingKey>, Problem> {
        if self.was_fetched { Ok(self.keys) } else { Err(Problem::of(codes::IDENTITY_UNAVAILABLE)) }
    }
}

impl State {
    fn wants_fetch(&self, is_unknown: bool, ttl: Duration) -> bool {
        let may = self.tried.is_none_or(|tried| tried.elapsed() >= MIN_REFETCH);
        let is_old = self.fetched.is_none_or(|fetched| fetched.elapsed() >= ttl);
        may && (is_old || is_unknown)
    }

    fn matching(&self, id: Option<&str>) -> Vec<VerifyingKey> {
        self.keys
            .iter()
            .filter(|key| id.is_none() || key.id.as_deref() == id)
            .map(|key| key.key.clone())
            .collect()
    }
}

/// Takes RSA and P-256 keys for signatures; symmetric keys have no place in a published set.
fn named_key(jwk: &Jwk) -> Option<NamedKey> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        _ => return None,
    };
    let stated = jwk.common.key_algorithm;
    let agrees = match algorithm {
        Algorithm::RS256 => matches!(stated, None | Some(KeyAlgorithm::RS256)),
        _ => matches!(stated, None | Some(KeyAlgorithm::ES256)),
    };
    let key = DecodingKey::from_jwk(jwk).ok().filter(|_| agrees)?;
    Some(NamedKey { id: jwk.common.key_id.clone(), key: VerifyingKey { algorithm, key } })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(value: serde_json::Value) -> Option<Algorithm> {
        let jwk: Jwk = serde_json::from_value(value).unwrap();
        named_key(&jwk).map(|key| key.key.algorithm)
    }

    #[test]
    fn the_algorithm_follows_from_the_kind_of_key() {
        let rsa = json!({"kty": "RSA", "kid": "1", "n": "sXch", "e": "AQAB"});
        assert_eq!(key(rsa), Some(Algorithm::RS256));
        let other = json!({"kty": "RSA", "alg": "PS256", "n": "sXch", "e": "AQAB"});
        assert_eq!(key(other), None);
        assert_eq!(key(json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"})), None);
    }
}
