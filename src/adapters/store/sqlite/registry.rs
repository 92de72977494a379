//! The port's [`Registry`]: what operators and clients keep besides conversations.

use async_trait::async_trait;
use futures::FutureExt;
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
use sqlx::{SqliteConnection, query};
use uuid::Uuid;

use super::{
    SqliteStore, dead_letter,
    fault::Fault,
    retention,
    row::{blob, documents, get, integer, json, micros, parse, time},
};

#[async_trait]
impl Registry for SqliteStore {
    async fn dead_letters(
        &self,
        tenant: Option<&TenantId>,
        cursor: Option<&str>,
        limit: u32,
    ) -> StoreResult<Page<DeadLetter>> {
        Ok(dead_letter::list(&mut *self.reader().await?, tenant, cursor, limit).await?)
    }

    async fn dead_letter(&self, tenant: Option<&TenantId>, id: i64) -> StoreResult<DeadLetter> {
        Ok(dead_letter::one(&mut *self.reader().await?, tenant, id).await?)
    }

    async fn replay(&self, tenant: Option<&TenantId>, id: i64) -> StoreResult<Replayed> {
        let tenant = tenant.cloned();
        self.writer
            .write("replay", move |c, terms| {
                async move { dead_letter::replay(c, terms, tenant.as_ref(), id).await }.boxed()
            })
            .await
    }

    async fn drop_dead_letter(&self, tenant: Option<&TenantId>, id: i64) -> StoreResult<()> {
        let tenant = tenant.cloned();
        self.writer
            .write("drop_dead_letter", move |c, _| {
                async move { dead_letter::drop_one(c, tenant.as_ref(), id).await }.boxed()
            })
            .await
    }

    async fn add_key(&self, key: StoredKey) -> StoreResult<()> {
        self.writer.write("key", move |c, _| async move { add_key(c, key).await }.boxed()).await
    }

    async fn key(&self, key_id: &str) -> StoreResult<StoredKey> {
        let row = query(KEY).bind(key_id.to_owned());
        let found = documents(row, &mut *self.reader().await?).await?;
        let json = found.first().ok_or(StoreError::NotFound)?;
        Ok(parse::<KeyRow>(json)?.into())
    }

    async fn keys(&self, tenant: Option<&TenantId>) -> StoreResult<Vec<ApiKey>> {
        let rows = query(KEYS).bind(tenant.map(|tenant| tenant.0.clone()));
        let found = documents(rows, &mut *self.reader().await?).await?;
        let keys = found.iter().map(|json| Ok(StoredKey::from(parse::<KeyRow>(json)?).key));
        Ok(keys.collect::<Result<_, Fault>>()?)
    }

    async fn revoke_key(&self, tenant: Option<&TenantId>, key_id: &str) -> StoreResult<()> {
        let (tenant, key_id) = (tenant.map(|tenant| tenant.0.clone()), key_id.to_owned());
        self.writer
            .write("key", move |c, _| {
                async move {
                    let sql = "UPDATE api_key SET revoked = 1 \
                               WHERE key_id = $1 AND ($2 IS NULL OR tenant = $2)";
                    let revoked = query(sql).bind(key_id).bind(tenant).execute(c).await?;
                    let known = revoked.rows_affected() > 0;
                    if known { Ok(()) } else { Err(StoreError::NotFound.into()) }
                }
                .boxed()
            })
            .await
    }

    async fn touch_key(&self, key_id: &str) -> StoreResult<()> {
        let key_id = key_id.to_owned();
        self.writer
            .write("key", move |c, terms| {
                async move {
                    // To the minute: a busy key is not written at each use.
                    let minute = terms.now.timestamp().div_euclid(60) * 60 * 1_000_000;
                    let sql = "UPDATE api_key SET last_used_at = $2 WHERE key_id = $1 \
                               AND (last_used_at IS NULL OR last_used_at < $2)";
                    query(sql).bind(key_id).bind(minute).execute(c).await?;
                    Ok(())
                }
                .boxed()
            })
            .await
    }

    async fn personas(&self, tenant: &TenantId) -> StoreResult<Vec<Persona>> {
        let sql = "SELECT payload FROM persona WHERE tenant = $1 ORDER BY persona_id";
        let rows = query(sql).bind(tenant.0.clone());
        let found = documents(rows, &mut *self.reader().await?).await?;
        Ok(found.iter().map(|json| parse(json)).collect::<Result<_, Fault>>()?)
    }

    async fn persona(&self, tenant: &TenantId, persona_id: &str) -> StoreResult<Persona> {
        let sql = "SELECT payload FROM persona WHERE tenant = $1 AND persona_id = $2";
        let row = query(sql).bind(tenant.0.clone()).bind(persona_id.to_owned());
        let found = documents(row, &mut *self.reader().await?).await?;
        Ok(parse(found.first().ok_or(StoreError::NotFound)?)?)
    }

    async fn put_persona(&self, tenant: &TenantId, persona: Persona) -> StoreResult<()> {
        let tenant = tenant.0.clone();
        self.writer
            .write("persona", move |c, _| {
                async move {
                    let sql = "INSERT INTO persona (tenant, persona_id, payload) \
                               VALUES ($1, $2, $3) ON CONFLICT (tenant, persona_id) \
                               DO UPDATE SET payload = excluded.payload";
                    let payload = json(&persona)?;
                    query(sql)
                        .bind(tenant)
                        .bind(persona.persona_id)
                        .bind(payload)
                        .execute(c)
                        .await?;
                    Ok(())
                }
                .boxed()
            })
            .await
    }

    async fn add_attachment(&self, attachment: Attachment, content: Vec<u8>) -> StoreResult<()> {
        self.writer
            .write("attachment", move |c, _| {
                async move { add_attachment(c, attachment, content).await }.boxed()
            })
            .await
    }

    async fn attachment(&self, tenant: &TenantId, id: Uuid) -> StoreResult<(Attachment, Vec<u8>)> {
        Ok(attachment(&mut *self.reader().await?, tenant, id).await?)
    }

    async fn recorded_answer(
        &self,
        tenant: &TenantId,
        idempotency: &Idempotency,
    ) -> StoreResult<Option<RecordedAnswer>> {
        Ok(recorded(&mut *self.reader().await?, tenant, idempotency).await?)
    }

    async fn record_answer(
        &self,
        tenant: &TenantId,
        idempotency: &Idempotency,
        answer: RecordedAnswer,
    ) -> StoreResult<()> {
        let (tenant, key) = (tenant.0.clone(), idempotency.clone());
        self.writer
            .write("answer", move |c, terms| {
                async move {
                    let sql = "INSERT INTO idempotency \
                               (tenant, route, key, body_hash, status, body, created_at) \
                               VALUES ($1, $2, $3, $4, $5, $6, $7) \
                               ON CONFLICT (tenant, route, key) DO NOTHING";
                    query(sql)
                        .bind(tenant)
                        .bind(key.route)
                        .bind(key.key)
                        .bind(key.body_hash)
                        .bind(answer.status)
                        .bind(answer.body)
                        .bind(micros(terms.now))
                        .execute(c)
                        .await?;
                    Ok(())
                }
                .boxed()
            })
            .await
    }

    async fn retire(&self, retention: &Retention) -> StoreResult<u64> {
        let retention = *retention;
        self.writer
            .write("retire", move |c, terms| {
                async move { retention::retire(c, terms, &retention).await }.boxed()
            })
            .await
    }

    async fn depths(&self) -> StoreResult<Depths> {
        Ok(retention::depths(&mut *self.reader().await?, self.clock.now()).await?)
    }

    async fn ping(&self) -> StoreResult<()> {
        documents(query("SELECT '{}'"), &mut *self.reader().await?).await?;
        // The writer answers too: a disk that takes no more commits is not well.
        self.writer.write("ping", |_, _| async { Ok(()) }.boxed()).await
    }
}

macro_rules! key_json {
    () => {
        "SELECT json_object('key_id',key_id,'label',label,'tenant',tenant,'admin',admin,\
         'prefix',prefix,'created_by',created_by,'created_at',created_at,\
         'last_used_at',last_used_at,'revoked',revoked,'hash',hash) FROM api_key "
    };
}

const KEY: &str = concat!(key_json!(), "WHERE key_id = $1");
const KEYS: &str = concat!(key_json!(), "WHERE $1 IS NULL OR tenant = $1 ORDER BY id DESC");

#[derive(Debug, Deserialize)]
struct KeyRow {
    key_id: String,
    label: String,
    tenant: TenantId,
    #[serde(deserialize_with = "super::row::flag")]
    admin: bool,
    prefix: String,
    created_by: String,
    created_at: i64,
    last_used_at: Option<i64>,
    #[serde(deserialize_with = "super::row::flag")]
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

async fn add_key(connection: &mut SqliteConnection, stored: StoredKey) -> Result<(), Fault> {
    let sql = "INSERT INTO api_key (key_id, tenant, label, admin, prefix, hash, created_by, \
               created_at, last_used_at, revoked) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let StoredKey { key, hash } = stored;
    query(sql)
        .bind(key.key_id)
        .bind(key.tenant.0)
        .bind(key.label)
        .bind(key.admin)
        .bind(key.prefix)
        .bind(hash)
        .bind(key.created_by)
        .bind(micros(key.created_at))
        .bind(key.last_used_at.map(micros))
        .bind(key.revoked)
        .execute(connection)
        .await?;
    Ok(())
}

async fn add_attachment(
    connection: &mut SqliteConnection,
    attachment: Attachment,
    content: Vec<u8>,
) -> Result<(), Fault> {
    let sql = "INSERT INTO attachments (id, tenant, session_id, filename, mime, size, sha256, \
               created_at, content) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
               ON CONFLICT (id) DO NOTHING";
    query(sql)
        .bind(blob(attachment.id))
        .bind(attachment.tenant.0)
        .bind(attachment.session_id.map(|session| blob(session.0)))
        .bind(attachment.filename)
        .bind(attachment.mime)
        .bind(integer(attachment.size))
        .bind(attachment.sha256)
        .bind(micros(attachment.created_at))
        .bind(content)
        .execute(connection)
        .await?;
    Ok(())
}

async fn attachment(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    id: Uuid,
) -> Result<(Attachment, Vec<u8>), Fault> {
    let sql = "SELECT session_id, filename, mime, size, sha256, created_at, content \
               FROM attachments WHERE id = $1 AND tenant = $2";
    let row = query(sql).bind(blob(id)).bind(tenant.0.clone()).fetch_optional(connection).await?;
    let row = row.ok_or(StoreError::NotFound)?;
    let session_id: Option<Vec<u8>> = get(&row, 0)?;
    let attachment = Attachment {
        id,
        tenant: tenant.clone(),
        session_id: session_id.map(|blob| super::row::id(&blob).map(SessionId)).transpose()?,
        filename: get(&row, 1)?,
        mime: get(&row, 2)?,
        size: super::row::count(get(&row, 3)?),
        sha256: get(&row, 4)?,
        created_at: time(get(&row, 5)?),
    };
    Ok((attachment, get(&row, 6)?))
}

async fn recorded(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    key: &Idempotency,
) -> Result<Option<RecordedAnswer>, Fault> {
    let sql = "SELECT json_array(body_hash, status, body) FROM idempotency \
               WHERE tenant = $1 AND route = $2 AND key = $3 AND status IS NOT NULL";
    let row = query(sql).bind(tenant.0.clone()).bind(key.route.clone()).bind(key.key.clone());
    let found = documents(row, connection).await?;
    let Some(json) = found.first() else { return Ok(None) };
    let (hash, status, body): (String, u16, String) = parse(json)?;
    if hash == key.body_hash {
        Ok(Some(RecordedAnswer { status, body }))
    } else {
        let why = format!("idempotency key `{}` was used with another body", key.key);
        Err(StoreError::Refused(why).into())
    }
}
