//! Who is asking, and the keys that prove it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ids::TenantId;

/// A caller whose identity is established.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The tenant that everything they see belongs to.
    pub tenant: TenantId,
    /// Who within the tenant.
    pub subject: String,
    /// Whether they may use the admin routes.
    pub admin: bool,
}

/// An API key as it is listed; the key itself is shown once, when made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// 32 hexadecimal digits, part of the key.
    pub key_id: String,
    /// What its maker called it.
    pub label: String,
    /// The tenant that it opens.
    pub tenant: TenantId,
    /// Whether it opens the admin routes.
    pub admin: bool,
    /// The first 12 characters of the key.
    pub prefix: String,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Whether it opens nothing any more.
    pub revoked: bool,
}

/// A stored key with the hash that a presented secret is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// What may be shown.
    pub key: ApiKey,
    /// SHA-256 of the whole key (its secret part has 256 random bits), as hexadecimal digits.
    pub hash: String,
}
