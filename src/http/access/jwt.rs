//! Bearer tokens.
//!
//! Each key has exactly one algorithm, which follows from the kind of the key: a shared secret
//! checks HS256, an RSA key RS256, a P-256 key ES256. The token's header only selects among those,
//! so a public key can never serve as an HMAC secret.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use soma_config::{Auth, JwtAlgorithm};
use soma_contract::{TenantId, access::Caller};

use super::{AccessError, invalid, is_subject, is_tenant, jwks::Jwks};
use crate::http::{edge::Edge, problem::Problem};

/// A key with the one algorithm that it checks.
#[derive(Clone)]
pub(super) struct VerifyingKey {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// Checks tokens.
pub(super) struct Tokens {
    keys: Vec<VerifyingKey>,
    jwks: Option<Jwks>,
    algorithms: Vec<Algorithm>,
    rules: Rules,
}

/// What a token must say.
struct Rules {
    audience: Option<String>,
    issuer: Option<String>,
    leeway: u64,
    tenant_claims: Vec<String>,
    admin_scope: String,
}

impl Tokens {
    pub(super) fn new(settings: &Auth) -> Result<Self, AccessError> {
        let mut keys = Vec::new();
        if let Some(secret) = &settings.jwt_secret {
            let key = DecodingKey::from_secret(secret.expose().as_bytes());
            keys.push(VerifyingKey { algorithm: Algorithm::HS256, key });
        }
        if let Some(pem) = &settings.jwt_public_key {
            keys.push(public_key(pem.expose().as_bytes())?);
        }
        let algorithms: Vec<_> = settings.jwt_algorithms.iter().copied().map(algorithm).collect();
        keys.retain(|key| algorithms.contains(&key.algorithm));
        let jwks = settings
            .jwks_url
            .as_ref()
            .map(|url| Jwks::new(url.expose(), settings.jwks_cache_ttl, settings.jwks_timeout))
            .transpose()?;
        let rules = Rules {
            audience: settings.jwt_audience.clone(),
            issuer: settings.jwt_issuer.clone(),
            leeway: settings.jwt_leeway.as_secs(),
            tenant_claims: settings.jwt_tenant_claims.clone(),
            admin_scope: settings.admin_scope.clone(),
        };
        Ok(Self { keys, jwks, algorithms, rules })
    }

    pub(super) async fn caller(&self, edge: &Edge, token: &str) -> Result<Caller, Problem> {
        let header =
            decode_header(token).map_err(|_malformed| invalid("the token is malformed"))?;
        if !self.algorithms.contains(&header.alg) {
            return Err(invalid("the token's algorithm is not accepted"));
        }
        if let Some(claims) = self.first_good(token, header.alg, &self.keys) {
            return self.rules.caller(&claims);
        }
        let published = match &self.jwks {
            // A published key is never a shared secret: no need to ask, nor to wait.
            Some(jwks) if header.alg != Algorithm::HS256 => {
                jwks.keys(edge, header.kid.as_deref()).await?
            }
            _ => Vec::new(),
        };
        let claims = self
            .first_good(token, header.alg, &published)
            .ok_or_else(|| invalid("the token is expired, not yet valid, or not meant for us"))?;
        self.rules.caller(&claims)
    }

    /// Returns the claims of a token that one of these keys has signed.
    fn first_good(
        &self,
        token: &str,
        stated: Algorithm,
        keys: &[VerifyingKey],
    ) -> Option<Map<String, Value>> {
        let fitting = |key: &&VerifyingKey| {
            key.algorithm == stated && self.algorithms.contains(&key.algorithm)
        };
        keys.iter().filter(fitting).find_map(|key| self.rules.verify(token, key).ok())
    }
}

impl Rules {
    fn verify(
        &self,
        token: &str,
        key: &VerifyingKey,
    ) -> Result<Map<String, Value>, jsonwebtoken::errors::Error> {
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = self.leeway;
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        match &self.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        decode::<Map<String, Value>>(token, &key.key, &validation).map(|token| token.claims)
    }

    fn caller(&self, claims: &Map<String, Value>) -> Result<Caller, Problem> {
        let subject = claims.get("sub").and_then(Value::as_str).filter(|text| is_subject(text));
        let tenant = self.tenant_claims.iter().find_map(|name| claims.get(name));
        let tenant = tenant.and_then(Value::as_str).filter(|text| is_tenant(text));
        let (Some(subject), Some(tenant)) = (subject, tenant) else {
            return Err(invalid("the token names no usable subject and tenant"));
        };
        let admin = ["scope", "scp", "scopes"]
            .iter()
            .filter_map(|name| claims.get(*name))
            .any(|scopes| has_scope(scopes, &self.admin_scope));
        Ok(Caller { tenant: TenantId(tenant.to_owned()), subject: subject.to_owned(), admin })
    }
}

/// Scopes come as one string with blanks between, or as a list.
fn has_scope(scopes: &Value, wanted: &str) -> bool {
    match scopes {
        Value::String(text) => text.split_whitespace().any(|scope| scope == wanted),
        Value::Array(list) => list.iter().any(|scope| scope.as_str() == Some(wanted)),
        _ => false,
    }
}

fn algorithm(algorithm: JwtAlgorithm) -> Algorithm {
    match algorithm {
        JwtAlgorithm::Hs256 => Algorithm::HS256,
        JwtAlgorithm::Rs256 => Algorithm::RS256,
        JwtAlgorithm::Es256 => Algorithm::ES256,
    }
}

fn public_key(pem: &[u8]) -> Result<VerifyingKey, AccessError> {
    if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        return Ok(VerifyingKey { algorithm: Algorithm::RS256, key });
    }
    DecodingKey::from_ec_pem(pem)
        .map(|key| VerifyingKey { algorithm: Algorithm::ES256, key })
        .map_err(|_neither| AccessError::PublicKey)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules() -> Rules {
        let settings = Auth::default();
        Tokens::new(&settings).unwrap().rules
    }

    fn claims(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn tenant_subject_and_scope_are_read() {
        let caller =
            rules().caller(&claims(&json!({"sub": "ann", "org": "acme", "scope": "a admin"})));
        assert_eq!(
            caller.unwrap(),
            Caller { tenant: TenantId("acme".to_owned()), subject: "ann".to_owned(), admin: true }
        );
        let plain = rules().caller(&claims(&json!({"sub": "ann", "tenant": "acme", "scp": ["a"]})));
        assert!(!plain.unwrap().admin);
    }

    #[test]
    fn a_token_without_tenant_or_subject_opens_nothing() {
        for bad in
            [json!({"sub": "ann"}), json!({"tenant": "acme"}), json!({"sub": 1, "tenant": "a"})]
        {
            assert!(rules().caller(&claims(&bad)).is_err());
        }
    }

    #[test]
    fn a_scope_that_only_contains_the_word_is_another_scope() {
        assert!(!has_scope(&json!("administrator not-admin"), "admin"));
        assert!(has_scope(&json!(["x", "admin"]), "admin"));
    }
}
