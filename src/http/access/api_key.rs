//! API keys: `sk_<32 hexadecimal digits>_<43 URL-safe characters>`.
//!
//! The first part finds the row, the second has 256 random bits; of the whole only the SHA-256 is
//! stored, compared in constant time.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::RngCore;
use sha2::{Digest, Sha256};
use soma_contract::{access::Caller, port::store::StoreError};
use tokio::time::Instant;
use uuid::Uuid;

use super::invalid;
use crate::http::{edge::Edge, problem::Problem};

/// What every key begins with.
pub(super) const PREFIX: &str = "sk_";

const SECRET_BYTES: usize = 32;
const SECRET_LENGTH: usize = 43;
const TOUCH_EVERY: Duration = Duration::from_mins(1);
const MAX_TOUCHED: usize = 10_000;

/// Makes a key for this id.
pub(in crate::http) fn new_key(key_id: Uuid) -> String {
    let mut secret = [0; SECRET_BYTES];
    rand::rng().fill_bytes(&mut secret);
    format!("{PREFIX}{}_{}", key_id.simple(), URL_SAFE_NO_PAD.encode(secret))
}

/// Returns what is stored of a key.
pub(in crate::http) fn hash(key: &str) -> String {
    hex::encode(Sha256::digest(key))
}

/// Compares without telling by its time where the first difference is.
fn hashes_match(left: &str, right: &str) -> bool {
    left.len() == right.len()
        && left.bytes().zip(right.bytes()).fold(0, |sum, (left, right)| sum | (left ^ right)) == 0
}

/// Returns the id within a well-formed key.
fn key_id(key: &str) -> Option<&str> {
    let (id, secret) = key.strip_prefix(PREFIX)?.split_once('_')?;
    let is_id = id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_secret = secret.len() == SECRET_LENGTH
        && secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    (is_id && is_secret).then_some(id)
}

/// Finds out whose key it is. Nothing tells an unknown key from a revoked or a wrong one.
pub(super) async fn caller(edge: &Edge, touched: &TouchLog, key: &str) -> Result<Caller, Problem> {
    let Some(id) = key_id(key).map(str::to_owned) else {
        return Err(invalid("the key is not valid"));
    };
    let presented = hash(key);
    let touch = touched.is_due(&id);
    let store = std::sync::Arc::clone(&edge.parts().store);
    let stored = edge
        .ask(async move {
            let stored = match store.key(&id).await {
                Ok(stored) => stored,
                Err(StoreError::NotFound) => return Ok(None),
                Err(error) => return Err(error),
            };
            let opens = hashes_match(&stored.hash, &presented) && !stored.key.revoked;
            if opens
                && touch
                && let Err(error) = store.touch_key(&id).await
            {
                tracing::debug!(%error, "the use of a key was not noted");
            }
            Ok(opens.then_some(stored.key))
        })
        .await?;
    let key = stored.ok_or_else(|| invalid("the key is not valid"))?;
    Ok(Caller { tenant: key.tenant, subject: format!("key:{}", key.key_id), admin: key.admin })
}

/// Remembers which keys were noted as used within the last minute.
#[derive(Debug, Default)]
pub(super) struct TouchLog(Mutex<HashMap<String, Instant>>);

impl TouchLog {
    fn is_due(&self, key_id: &str) -> bool {
        let mut touched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if touched.get(key_id).is_some_and(|at| now.duration_since(*at) < TOUCH_EVERY) {
            return false;
        }
        if touched.len() >= MAX_TOUCHED {
            touched.clear();
        }
        touched.insert(key_id.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_well_formed_and_unique() {
        let id = Uuid::from_u128(7);
        let key = new_key(id);
        assert_eq!(key.len(), 3 + 32 + 1 + 43);
        assert_eq!(key_id(&key), Some(id.simple().to_string().as_str()));
        assert_ne!(key, new_key(id));
    }

    #[test]
    fn malformed_keys_are_no_keys() {
        let good = new_key(Uuid::from_u128(7));
        let short = good.get(..good.len() - 1).unwrap();
        for bad in ["sk_", "sk_zz_yy", short, &format!("{good}x"), &good.replace("sk_", "pk_")] {
            assert_eq!(key_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn hashes_are_compared_whole() {
        assert!(hashes_match("abc", "abc"));
        assert!(!hashes_match("abc", "abd"));
        assert!(!hashes_match("abc", "ab"));
    }

    #[test]
    fn a_key_is_noted_once_a_minute() {
        let log = TouchLog::default();
        assert!(log.is_due("a"));
        assert!(!log.is_due("a"));
        assert!(log.is_due("b"));
    }
}
