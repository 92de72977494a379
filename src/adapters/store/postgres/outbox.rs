//! The port's [`Outbox`]: rows between store and bus.
//!
//! Every topic has one group at most, so a local record goes as soon as its group has it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use soma_contract::{
    Event, EventId, Owner, SessionId, TenantId, compose,
    event::TraceContext,
    port::{
        bus::{OutboxRow, Position, Record},
        store::{NewDeadLetter, Outbox, Shards, StoreResult},
    },
    topic::{Group, Topic},
};
use sqlx::{PgConnection, query};

use super::{
    PostgresStore, dead_letter,
    engine::{Terms, read, transact},
    fault::Fault,
    row::{documents, parse, refused, time},
    shards::{fenced, held, numbers},
};

#[async_trait]
impl Outbox for PostgresStore {
    async fn hold_shards(&self, service: &str, owner: &Owner) -> StoreResult<Shards> {
        self.hold(service, owner).await
    }

    async fn outbox(&self, shards: &Shards, limit: u32) -> StoreResult<Vec<OutboxRow>> {
        if shards.held.is_empty() {
            return Ok(Vec::new());
        }
        read!(&self.engine, |c| rows(c, shards, limit))
    }

    async fn delivered(&self, shards: &Shards, ids: &[i64]) -> StoreResult<u64> {
        if shards.held.is_empty() || ids.is_empty() {
            return Ok(0);
        }
        transact!(&self.engine, "delivered", |c, terms| delivered(c, terms, shards, ids))
    }

    async fn refused(&self, shards: &Shards, id: i64, reason: &str) -> StoreResult<()> {
        if shards.held.is_empty() {
            return Ok(());
        }
        transact!(&self.engine, "refused", |c, terms| refuse(c, terms, shards, id, reason))
    }

    async fn records(&self, group: Group, skip: &[i64], limit: u32) -> StoreResult<Vec<Record>> {
        read!(&self.engine, |c| records(c, group, skip, limit))
    }

    async fn acknowledge(&self, group: Group, rows: &[i64]) -> StoreResult<()> {
        if rows.is_empty() {
            return Ok(());
        }
        transact!(&self.engine, "acknowledge", |c, _terms| acknowledge(c, group, rows))
    }

    async fn bury(&self, group: Group, letter: NewDeadLetter) -> StoreResult<()> {
        transact!(&self.engine, "bury", |c, terms| {
            dead_letter::bury_record(c, terms, group, &letter)
        })
    }
}

macro_rules! row_json {
    () => {
        "SELECT json_build_object('id',o.id,'topic',o.topic,'session_id',o.session_id,\
         'headers',o.headers,'payload',coalesce(o.payload,v.payload),'tenant',s.tenant,\
         'created_at',o.created_at)::text FROM message_outbox o \
         LEFT JOIN session_events v ON v.session_id = o.session_id AND v.seq = o.seq \
         LEFT JOIN session_envelopes s ON s.session_id = o.session_id "
    };
}

/// $1 limit, $2 shards: always from the first row, because one with a lower id may be committed after
/// one with a higher.
const ROWS: &str = concat!(row_json!(), "WHERE o.shard = ANY($2) ORDER BY o.id LIMIT $1");

async fn rows(
    connection: &mut PgConnection,
    shards: &Shards,
    limit: u32,
) -> Result<Vec<OutboxRow>, Fault> {
    let rows = query(ROWS).bind(i64::from(limit)).bind(numbers(shards));
    rows_of(&documents(rows, connection).await?)
}

/// $1 topic, $2 ids to skip, $3 limit
const OF_TOPIC: &str =
    concat!(row_json!(), "WHERE o.topic = $1 AND o.id <> ALL($2) ORDER BY o.id LIMIT $3");

async fn records(
    connection: &mut PgConnection,
    group: Group,
    skip: &[i64],
    limit: u32,
) -> Result<Vec<Record>, Fault> {
    let rows = query(OF_TOPIC).bind(group.topic().as_str()).bind(skip).bind(i64::from(limit));
    let rows = rows_of(&documents(rows, connection).await?)?;
    Ok(rows.into_iter().map(record).collect())
}

/// $1 ids, $2 held shards, $3 whether the bus is local
const DELIVERED: &str = concat!(
    "DELETE FROM message_outbox o WHERE o.id = ANY($1) AND ",
    fenced!("outbox-sync", "o.shard", "$2", "$3")
);

async fn delivered(
    connection: &mut PgConnection,
    terms: Terms,
    shards: &Shards,
    ids: &[i64],
) -> Result<u64, Fault> {
    let rows = query(DELIVERED).bind(ids).bind(held(shards)?).bind(terms.bus_is_local);
    Ok(rows.execute(connection).await?.rows_affected())
}

/// $1 ids, $2 topic. A topic's group is its only one, so its word is enough for the row to go.
const ACKNOWLEDGED: &str = "DELETE FROM message_outbox WHERE id = ANY($1) AND topic = $2";

async fn acknowledge(
    connection: &mut PgConnection,
    group: Group,
    rows: &[i64],
) -> Result<(), Fault> {
    let rows = query(ACKNOWLEDGED).bind(rows).bind(group.topic().as_str());
    rows.execute(connection).await?;
    Ok(())
}

/// $1 id, $2 held shards, $3 whether the bus is local
const ONE: &str = concat!(
    row_json!(),
    "WHERE o.id = $1 AND ",
    fenced!("outbox-sync", "o.shard", "$2", "$3"),
    " FOR UPDATE OF o"
);

#[derive(Debug, Deserialize)]
struct StoredRow {
    id: i64,
    topic: String,
    session_id: SessionId,
    headers: Option<String>,
    payload: String,
    tenant: Option<TenantId>,
    created_at: i64,
}

fn rows_of(found: &[String]) -> Result<Vec<OutboxRow>, Fault> {
    found.iter().map(|json| row(parse(json)?)).collect()
}

fn row(stored: StoredRow) -> Result<OutboxRow, Fault> {
    let topic = Topic::named(&stored.topic)
        .ok_or_else(|| refused(&format_args!("`{}` is no topic of ours", stored.topic)))?;
    let headers = if let Some(headers) = &stored.headers {
        parse(headers)?
    } else {
        let event: Event = parse(&stored.payload)?;
        compose::headers(&stored.tenant.unwrap_or_else(TenantId::public), &event)
    };
    Ok(OutboxRow {
        id: stored.id,
        topic,
        session_id: stored.session_id,
        headers,
        payload: Bytes::from(stored.payload),
        created_at: time(stored.created_at),
    })
}

fn record(row: OutboxRow) -> Record {
    Record {
        topic: row.topic,
        position: Position::Row(row.id),
        session_id: Some(row.session_id),
        headers: row.headers,
        payload: row.payload,
    }
}

/// Moves a row to the dead letters.
async fn refuse(
    connection: &mut PgConnection,
    terms: Terms,
    shards: &Shards,
    id: i64,
    reason: &str,
) -> Result<(), Fault> {
    let row = query(ONE).bind(id).bind(held(shards)?).bind(terms.bus_is_local);
    for row in rows_of(&documents(row, connection).await?)? {
        dead_letter::bury_row(connection, terms, &letter(&row, reason), &row).await?;
        let sql = "DELETE FROM message_outbox WHERE id = $1";
        query(sql).bind(id).execute(&mut *connection).await?;
    }
    Ok(())
}

fn letter(row: &OutboxRow, reason: &str) -> NewDeadLetter {
    let event = serde_json::from_slice(&row.payload)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&row.payload)));
    let header = |name: &str| row.headers.get(name).cloned();
    let trace: BTreeMap<String, String> = ["traceparent", "tracestate", "request_id"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), header(name)?)))
        .collect();
    NewDeadLetter {
        tenant: header("tenant_id").map(TenantId),
        topic: row.topic.as_str().to_owned(),
        turn_id: None,
        event_id: header("event_id").and_then(|text| text.parse::<EventId>().ok()),
        event,
        error: reason.to_owned(),
        attempts: 1,
        trace: TraceContext(trace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_topic_needs_acknowledgements_of_two_groups() {
        for topic in Topic::ALL {
            assert!(topic.groups().len() <= 1, "`{}` needs them per (row, group)", topic.as_str());
        }
    }
}
