//! The port's [`Registry`]: what operators and clients keep besides conversations.

use async_trait::async_trait;
use serde::Deserialize;
use soma_contract::{
    SessionId, TenantId,
    access::{ApiKey, StoredKey},
    message::Idempotency,
    persona::Persona,
    port::store::{
        Attachment, DeadLetter, Depths, Page, RecordedAnswer, Registry, Replayed, Retention,
        StoreError, StoreResult,
    },
};
use sqlx::{PgConnection, query};
use uuid::Uuid;

use super::{
    PostgresStore, dead_letter,
    engine::{Terms, read, transact},
    fault::Fault,
    retention,
    row::{documents, get, integer, micros, optional, parse, sent, time},
    text::{self, kept},
};

#[async_trait]
impl Registry for PostgresStore {
    async fn dead_letters(
        &self,
        tenant: Option<&TenantId>,
        cursor: Option<&str>,
        limit: u32,
    ) -> StoreResult<Page<DeadLetter>> {
        read!(&self.engine, |c| dead_letter::list(c, tenant, cursor, limit))
    }

    async fn dead_letter(&self, tenant: Option<&TenantId>, id: i64) -> StoreResult<DeadLetter> {
        read!(&self.engine, |c| dead_letter::one(c, tenant, id))
    }

    async fn replay(&self, tenant: Option<&TenantId>, id: i64) -> StoreResult<Replayed> {
        transact!(&self.engine, "replay", |c, terms| dead_letter::replay(c, terms, tenant, id))
    }

    async fn drop_dead_letter(&self, tenant: Option<&TenantId>, id: i64) -> StoreResult<()> {
        transact!(&self.engine, "drop_dead_letter", |c, _terms| {
            dead_letter::drop_one(c, tenant, id)
        })
    }

    async fn add_key(&self, key: StoredKey) -> StoreResult<()> {
        transact!(&self.engine, "key", |c, _terms| add_key(c, &key))
    }

    async fn key(&self, key_id: &str) -> StoreResult<StoredKey> {
        read!(&self.engine, |c| key(c, key_id))
    }

    async fn keys(&self, tenant: Option<&TenantId>) -> StoreResult<Vec<ApiKey>> {
        read!(&self.engine, |c| keys(c, tenant))
    }

    async fn revoke_key(&self, tenant: Option<&TenantId>, key_id: &str) -> StoreResult<()> {
        transact!(&self.engine, "key", |c, _terms| revoke_key(c, tenant, key_id))
    }

    async fn touch_key(&self, key_id: &str) -> StoreResult<()> {
        transact!(&self.engine, "key", |c, terms| touch_key(c, terms, key_id))
    }

    async fn personas(&self, tenant: &TenantId) -> StoreResult<Vec<Persona>> {
        read!(&self.engine, |c| personas(c, tenant))
    }

    async fn persona(&self, tenant: &TenantId, persona_id: &str) -> StoreResult<Persona> {
        read!(&self.engine, |c| persona(c, tenant, persona_id))
    }

    async fn put_persona(&self, tenant: &TenantId, persona: Persona) -> StoreResult<()> {
        transact!(&self.engine, "persona", |c, _terms| put_persona(c, tenant, &persona))
    }

    async fn add_attachment(&self, attachment: Attachment, content: Vec<u8>) -> StoreResult<()> {
        transact!(&self.engine, "attachment", |c, _terms| add_attachment(c, &attachment, &content))
    }

    async fn attachment(&self, tenant: &TenantId, id: Uuid) -> StoreResult<(Attachment, Vec<u8>)> {
        read!(&self.engine, |c| attachment(c, tenant, id))
    }

    async fn recorded_answer(
        &self,
        tenant: &TenantId,
        idempotency: &Idempotency,
    ) -> StoreResult<Option<RecordedAnswer>> {
        read!(&self.engine, |c| recorded(c, tenant, idempotency))
    }

    async fn record_answer(
        &self,
        tenant: &TenantId,
        idempotency: &Idempotency,
        answer: RecordedAnswer,
    ) -> StoreResult<()> {
        transact!(&self.engine, "answer", |c, terms| {
            record(c, terms, tenant, idempotency, &answer)
        })
    }

    async fn retire(&self, retention: &Retention) -> StoreResult<u64> {
        transact!(&self.engine, "retire", |c, terms| retention::retire(c, terms, retention))
    }

    async fn depths(&self) -> StoreResult<Depths> {
        read!(&self.engine, |c| retention::depths(c, self.engine.clock.now()))
    }

    async fn ping(&self) -> StoreResult<()> {
        // A transaction: a store whose lock is lost, or that takes no more commits, is not well.
        transact!(&self.engine, "ping", |c, _terms| ping(c))
    }
}

async fn ping(connection: &mut PgConnection) -> Result<(), Fault> {
    query("SELECT 1").execute(connection).await?;
    Ok(())
}

macro_rules! key_json {
    () => {
        "SELECT json_build_object('key_id',key_id,'label',label,'tenant',tenant,'admin',admin,\
         'prefix',prefix,'created_by',created_by,'created_at',created_at,\
         'last_used_at',last_used_at,'revoked',revoked,'hash',hash)::text FROM api_key "
    };
}

const KEY: &str = concat!(key_json!(), "WHERE key_id = $1");
const KEYS: &str = concat!(key_json!(), "WHERE $1::text IS NULL OR tenant = $1 ORDER BY id DESC");

#[derive(Debug, Deserialize)]
struct KeyRow {
    key_id: String,
    label: String,
    tenant: TenantId,
    admin: bool,
    prefix: String,
    created_by: String,
    created_at: i64,
    last_used_at: Option<i64>,
    revoked: bool,
    hash: String,
}

impl From<KeyRow> for StoredKey {
    fn from(row: KeyRow) -> Self {
        let key = ApiKey {
            key_id: row.key_id,
            label: row.label,
            tenant: row.tenant,
            admin: row.admin,
            prefix: row.prefix,
            created_by: row.created_by,
            created_at: time(row.created_at),
            last_used_at: row.last_used_at.map(time),
            revoked: row.revoked,
        };
        Self { key, hash: row.hash }
    }
}

async fn add_key(connection: &mut PgConnection, stored: &StoredKey) -> Result<(), Fault> {
    let sql = "INSERT INTO api_key (key_id, tenant, label, admin, prefix, hash, created_by, \
               created_at, last_used_at, revoked) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let StoredKey { key, hash } = stored;
    query(sql)
        .bind(kept(&key.key_id))
        .bind(kept(&key.tenant.0))
        .bind(kept(&key.label))
        .bind(key.admin)
        .bind(kept(&key.prefix))
        .bind(kept(hash))
        .bind(kept(&key.created_by))
        .bind(micros(key.created_at))
        .bind(key.last_used_at.map(micros))
        .bind(key.revoked)
        .execute(connection)
        .await?;
    Ok(())
}

async fn key(connection: &mut PgConnection, key_id: &str) -> Result<StoredKey, Fault> {
    let found: Option<KeyRow> = optional(query(KEY).bind(kept(key_id)), connection).await?;
    Ok(found.ok_or(StoreError::NotFound)?.into())
}

async fn keys(
    connection: &mut PgConnection,
    tenant: Option<&TenantId>,
) -> Result<Vec<ApiKey>, Fault> {
    let rows = query(KEYS).bind(tenant.map(|tenant| kept(&tenant.0)));
    let found = documents(rows, connection).await?;
    found.iter().map(|json| Ok(StoredKey::from(parse::<KeyRow>(json)?).key)).collect()
}

async fn revoke_key(
    connection: &mut PgConnection,
    tenant: Option<&TenantId>,
    key_id: &str,
) -> Result<(), Fault> {
    let sql = "UPDATE api_key SET revoked = true \
               WHERE key_id = $1 AND ($2::text IS NULL OR tenant = $2)";
    let revoked = query(sql).bind(kept(key_id)).bind(tenant.map(|tenant| kept(&tenant.0)));
    let known = revoked.execute(connection).await?.rows_affected() > 0;
    if known { Ok(()) } else { Err(StoreError::NotFound.into()) }
}

/// To the minute: a busy key is not written at each use.
async fn touch_key(connection: &mut PgConnection, terms: Terms, key_id: &str) -> Result<(), Fault> {
    let minute = terms.now.timestamp().div_euclid(60) * 60 * 1_000_000;
    let sql = "UPDATE api_key SET last_used_at = $2 WHERE key_id = $1 \
               AND (last_used_at IS NULL OR last_used_at < $2)";
    query(sql).bind(kept(key_id)).bind(minute).execute(connection).await?;
    Ok(())
}

async fn personas(connection: &mut PgConnection, tenant: &TenantId) -> Result<Vec<Persona>, Fault> {
    let sql = "SELECT payload FROM persona WHERE tenant = $1 ORDER BY persona_id";
    let found = documents(query(sql).bind(kept(&tenant.0)), connection).await?;
    found.iter().map(|json| parse(json)).collect()
}

async fn persona(
    connection: &mut PgConnection,
    tenant: &TenantId,
    persona_id: &str,
) -> Result<Persona, Fault> {
    let sql = "SELECT payload FROM persona WHERE tenant = $1 AND persona_id = $2";
    let row = query(sql).bind(kept(&tenant.0)).bind(kept(persona_id));
    optional(row, connection).await?.ok_or(Fault::Outcome(StoreError::NotFound))
}

async fn put_persona(
    connection: &mut PgConnection,
    tenant: &TenantId,
    persona: &Persona,
) -> Result<(), Fault> {
    let sql = "INSERT INTO persona (tenant, persona_id, payload) VALUES ($1, $2, $3) \
               ON CONFLICT (tenant, persona_id) DO UPDATE SET payload = excluded.payload";
    query(sql)
        .bind(kept(&tenant.0))
        .bind(kept(&persona.persona_id))
        .bind(sent(persona)?)
        .execute(connection)
        .await?;
    Ok(())
}

async fn add_attachment(
    connection: &mut PgConnection,
    attachment: &Attachment,
    content: &[u8],
) -> Result<(), Fault> {
    let sql = "INSERT INTO attachments (id, tenant, session_id, filename, mime, size, sha256, \
               created_at, content) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
               ON CONFLICT (id) DO NOTHING";
    query(sql)
        .bind(attachment.id)
        .bind(kept(&attachment.tenant.0))
        .bind(attachment.session_id.map(|session| session.0))
        .bind(kept(&attachment.filename))
        .bind(kept(&attachment.mime))
        .bind(integer(attachment.size))
        .bind(kept(&attachment.sha256))
        .bind(micros(attachment.created_at))
        .bind(content)
        .execute(connection)
        .await?;
    Ok(())
}

#[derive(Debug, Deserialize)]
struct AttachmentRow {
    session_id: Option<SessionId>,
    filename: String,
    mime: String,
    size: u64,
    sha256: String,
    created_at: i64,
}

async fn attachment(
    connection: &mut PgConnection,
    tenant: &TenantId,
    id: Uuid,
) -> Result<(Attachment, Vec<u8>), Fault> {
    let sql = "SELECT json_build_object('session_id', session_id, 'filename', filename, \
               'mime', mime, 'size', size, 'sha256', sha256, 'created_at', created_at)::text, \
               content FROM attachments WHERE id = $1 AND tenant = $2";
    let row = query(sql).bind(id).bind(kept(&tenant.0)).fetch_optional(connection).await?;
    let row = row.ok_or(StoreError::NotFound)?;
    let stored: AttachmentRow = parse(&text::restored(get(&row, 0)?))?;
    let attachment = Attachment {
        id,
        tenant: tenant.clone(),
        session_id: stored.session_id,
        filename: stored.filename,
        mime: stored.mime,
        size: stored.size,
        sha256: stored.sha256,
        created_at: time(stored.created_at),
    };
    Ok((attachment, get(&row, 1)?))
}

async fn recorded(
    connection: &mut PgConnection,
    tenant: &TenantId,
    key: &Idempotency,
) -> Result<Option<RecordedAnswer>, Fault> {
    let sql = "SELECT json_build_array(body_hash, status, body)::text FROM idempotency \
               WHERE tenant = $1 AND route = $2 AND key = $3 AND status IS NOT NULL";
    let row = query(sql).bind(kept(&tenant.0)).bind(kept(&key.route)).bind(kept(&key.key));
    let found: Option<(String, u16, String)> = optional(row, connection).await?;
    match found {
        None => Ok(None),
        Some((hash, status, body)) if hash == key.body_hash => {
            Ok(Some(RecordedAnswer { status, body }))
        }
        Some(_) => {
            let why = format!("idempotency key `{}` was used with another body", key.key);
            Err(StoreError::Refused(why).into())
        }
    }
}

async fn record(
    connection: &mut PgConnection,
    terms: Terms,
    tenant: &TenantId,
    key: &Idempotency,
    answer: &RecordedAnswer,
) -> Result<(), Fault> {
    let sql = "INSERT INTO idempotency (tenant, route, key, body_hash, status, body, created_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, route, key) DO NOTHING";
    query(sql)
        .bind(kept(&tenant.0))
        .bind(kept(&key.route))
        .bind(kept(&key.key))
        .bind(kept(&key.body_hash))
        .bind(i64::from(answer.status))
        .bind(kept(&answer.body))
        .bind(micros(terms.now))
        .execute(connection)
        .await?;
    Ok(())
}
