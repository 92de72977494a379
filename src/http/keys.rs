//! API keys: made, listed, revoked. The key itself is shown once and never kept.

use actix_web::{HttpResponse, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use soma_contract::{
    TenantId,
    access::{ApiKey, StoredKey},
};
use utoipa::ToSchema;

use super::{
    access::{self, reach},
    call::{Call, json, ok},
    codes, idempotency,
    problem::{Answer, Problem},
};

const MAX_LABEL: usize = 100;
const PREFIX_SHOWN: usize = 12;

/// What `POST /v1/keys` takes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKey {
    /// What it is for, 1 to 100 characters.
    label: String,
    /// The tenant that it opens; your own if not set. Another one can only be named by an
    /// administrator of the tenant `public`.
    #[serde(default)]
    tenant: Option<String>,
    /// Whether it opens the admin routes.
    #[serde(default)]
    admin: bool,
}

/// A new key: with its secret, this once.
#[derive(Debug, Serialize)]
struct CreatedKey {
    #[serde(flatten)]
    key: ApiKey,
    secret: String,
}

/// `POST /v1/keys`.
pub(super) async fn create(call: Call) -> Answer {
    let NewKey { label, tenant, admin } = call.json()?;
    let label = label.trim().to_owned();
    if label.is_empty() || label.chars().count() > MAX_LABEL {
        let detail = format!("`label` has 1 to {MAX_LABEL} characters");
        return Err(Problem::new(codes::INVALID_BODY, detail));
    }
    let tenant = tenant_of(&call, tenant)?;
    let key_id = idempotency::derived_id(&call, 0);
    let secret = access::new_key(key_id);
    let key = ApiKey {
        key_id: key_id.simple().to_string(),
        label,
        tenant,
        admin,
        prefix: secret.chars().take(PREFIX_SHOWN).collect(),
        created_by: call.caller.subject.clone(),
        created_at: call.edge.parts().clock.now(),
        last_used_at: None,
        revoked: false,
    };
    let stored = StoredKey { key: key.clone(), hash: access::hash(&secret) };
    let store = call.store();
    call.edge.ask(async move { store.add_key(stored).await }).await?;
    tracing::info!(key_id = key.key_id, tenant = %key.tenant, admin, "a key was made");
    json(StatusCode::CREATED, &CreatedKey { key, secret })
}

fn tenant_of(call: &Call, asked: Option<String>) -> Result<TenantId, Problem> {
    let Some(asked) = asked else {
        return Ok(call.caller.tenant.clone());
    };
    if !access::is_tenant(&asked) {
        let detail = "a tenant has 1 to 64 letters, digits, `-`, `_` and `.`";
        return Err(Problem::new(codes::INVALID_BODY, detail));
    }
    let asked = TenantId(asked);
    match reach(&call.caller) {
        Some(own) if own != asked => {
            let detail = "only an administrator of `public` makes keys for other tenants";
            Err(Problem::new(codes::ADMIN_REQUIRED, detail))
        }
        _ => Ok(asked),
    }
}

/// `GET /v1/keys`.
pub(super) async fn list(call: Call) -> Answer {
    let (store, tenant) = (call.store(), reach(&call.caller));
    let keys = call.edge.ask(async move { store.keys(tenant.as_ref()).await }).await?;
    ok(&json!({"keys": keys}))
}

/// `DELETE /v1/keys/{key_id}`.
pub(super) async fn revoke(call: Call) -> Answer {
    let key_id = call.part("key_id").to_owned();
    if key_id.len() != 32 || !key_id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Problem::new(codes::INVALID_ID, "a key's id has 32 hexadecimal digits"));
    }
    let (store, tenant) = (call.store(), reach(&call.caller));
    let id = key_id.clone();
    call.edge.ask(async move { store.revoke_key(tenant.as_ref(), &id).await }).await?;
    tracing::info!(key_id, subject = call.caller.subject, "a key was revoked");
    Ok(HttpResponse::NoContent().finish())
}
