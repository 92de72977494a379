//! `Idempotency-Key` on writes: the same key and body get the same answer.
//!
//! Messages keep their key in the transaction that accepts them. All other writes have their answer
//! recorded after the fact; those that a crash in between could double derive what they make from
//! the key instead (see [`derived_id`]).

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix_web::{
    HttpResponse,
    body::MessageBody,
    http::{
        StatusCode,
        header::{HeaderMap, HeaderName, HeaderValue},
    },
    web::Bytes,
};
use sha2::{Digest, Sha256};
use soma_contract::{
    Ids, TenantId,
    message::Idempotency,
    port::store::{RecordedAnswer, StoreError},
};
use uuid::Uuid;

use super::{
    call::Call,
    codes,
    problem::{Answer, Problem},
    routes::{Keep, Route},
};

/// Tells that an earlier request did the work.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
const MAX_KEY: usize = 255;

/// Reads the header.
pub(super) fn read(
    route: &Route,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Option<Idempotency>, Problem> {
    let Some(value) = headers.get(HEADER).filter(|_| route.keep != Keep::Nothing) else {
        return Ok(None);
    };
    let key = value.to_str().ok().filter(|key| {
        (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
    });
    let Some(key) = key else {
        return Err(Problem::of(codes::INVALID_IDEMPOTENCY_KEY));
    };
    Ok(Some(Idempotency {
        route: format!("{} {}", route.method, route.path),
        key: key.to_owned(),
        body_hash: hex::encode(Sha256::digest(body)),
    }))
}

/// Runs a handler unless its answer is on record, and puts it on record.
pub(super) async fn around(call: Call) -> Answer {
    let route = call.route;
    let recorded = (route.keep == Keep::Answer).then(|| call.idempotency.clone()).flatten();
    let Some(mut idempotency) = recorded else {
        return (route.run)(call).await;
    };
    // The path is part of what was asked for, though the key's scope is the route's template.
    idempotency.body_hash = format!("{} {}", call.request.path(), idempotency.body_hash);
    let tenant = call.caller.tenant.clone();
    let edge = call.edge.clone();
    let Some(_turn) = edge.in_progress().enter(&tenant, &idempotency) else {
        return Err(Problem::of(codes::REQUEST_IN_PROGRESS).retry_after(Duration::from_secs(1)));
    };
    if let Some(answer) = recorded_answer(&edge, &tenant, &idempotency).await? {
        return replay(&answer);
    }
    let response = (route.run)(call).await?;
    let (head, body) = response.into_parts();
    let body =
        body.try_into_bytes().map_err(|_stream| Problem::internal("a stream was recorded"))?;
    if head.status().is_success() {
        record(&edge, &tenant, idempotency, head.status(), &body).await;
    }
    Ok(head.set_body(body).map_into_boxed_body())
}

async fn recorded_answer(
    edge: &super::Edge,
    tenant: &TenantId,
    idempotency: &Idempotency,
) -> Result<Option<RecordedAnswer>, Problem> {
    let store = Arc::clone(&edge.parts().store);
    let (tenant, idempotency) = (tenant.clone(), idempotency.clone());
    edge.ask(async move {
        match store.recorded_answer(&tenant, &idempotency).await {
            Ok(answer) => Ok(answer),
            Err(StoreError::Refused(_)) => Err(Problem::of(codes::IDEMPOTENCY_KEY_REUSED)),
            Err(error) => Err(Problem::from(error)),
        }
    })
    .await
}

/// Puts an answer on record. The work is done; a failure here only costs the promise.
async fn record(
    edge: &super::Edge,
    tenant: &TenantId,
    idempotency: Idempotency,
    status: StatusCode,
    body: &Bytes,
) {
    let answer = RecordedAnswer {
        status: status.as_u16(),
        body: without_secret(&String::from_utf8_lossy(body)),
    };
    let store = Arc::clone(&edge.parts().store);
    let tenant = tenant.clone();
    let recorded =
        edge.ask(async move { store.record_answer(&tenant, &idempotency, answer).await }).await;
    if let Err(problem) = recorded {
        tracing::warn!(code = problem.code().name, "an answer was not put on record");
    }
}

/// A new API key is shown once: the record, and with it each replay, goes without.
fn without_secret(body: &str) -> String {
    match serde_json::from_str(body) {
        Ok(serde_json::Value::Object(mut map)) if map.contains_key("secret") => {
            map.insert("secret".to_owned(), serde_json::Value::Null);
            serde_json::Value::Object(map).to_string()
        }
        _ => body.to_owned(),
    }
}

fn replay(answer: &RecordedAnswer) -> Answer {
    let status = StatusCode::from_u16(answer.status).map_err(Problem::internal)?;
    let mut response = HttpResponse::build(status);
    response.insert_header((REPLAYED, "true"));
    if answer.body.is_empty() {
        return Ok(response.finish());
    }
    Ok(response.content_type("application/json").body(answer.body.clone()))
}

/// Marks an answer as one that an earlier request had brought about.
pub(super) fn mark_replayed(response: &mut HttpResponse) {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
}

/// Draws the id of the `index`th thing that a request makes: from the key where there is one, so
/// that a repetition makes the same thing.
pub(super) fn derived_id(call: &Call, index: usize) -> Uuid {
    let ids: &dyn Ids = &*call.edge.parts().ids;
    let Some(idempotency) = &call.idempotency else {
        return ids.draw();
    };
    let name =
        format!("{}\n{}\n{}\n{index}", call.caller.tenant, idempotency.route, idempotency.key);
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
}

/// The keys whose requests are being answered by this process.
#[derive(Debug, Clone, Default)]
pub(super) struct InProgress(Arc<Mutex<HashSet<(TenantId, String, String)>>>);

impl InProgress {
    fn enter(&self, tenant: &TenantId, idempotency: &Idempotency) -> Option<Entered> {
        let key = (tenant.clone(), idempotency.route.clone(), idempotency.key.clone());
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(key.clone()).then(|| Entered { all: self.clone(), key })
    }
}

/// Leaves when dropped.
struct Entered {
    all: InProgress,
    key: (TenantId, String, String),
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_once_at_a_time() {
        let all = InProgress::default();
        let idempotency = |key: &str| Idempotency {
            route: "PUT /x".to_owned(),
            key: key.to_owned(),
            body_hash: String::new(),
        };
        let first = all.enter(&TenantId::public(), &idempotency("a"));
        assert!(first.is_some());
        assert!(all.enter(&TenantId::public(), &idempotency("a")).is_none());
        assert!(all.enter(&TenantId::public(), &idempotency("b")).is_some());
        drop(first);
        assert!(all.enter(&TenantId::public(), &idempotency("a")).is_some());
    }

    #[test]
    fn the_secret_of_a_new_key_is_not_put_on_record() {
        let body = without_secret(r#"{"key_id":"1","secret":"sk_x"}"#);
        assert_eq!(body, r#"{"key_id":"1","secret":null}"#);
        assert_eq!(without_secret("[1]"), "[1]");
    }
}
