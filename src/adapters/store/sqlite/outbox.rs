//! The port's [`Outbox`]: rows between store and bus.
//!
//! Every topic has one group at most, so a local record goes as soon as its group has it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
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
use sqlx::{SqliteConnection, query};

use super::{
    SqliteStore, dead_letter,
    fault::Fault,
    row::{documents, json, parse, refused, time},
    work::Terms,
};

#[async_trait]
impl Outbox for SqliteStore {
    async fn hold_shards(&self, _service: &str, _owner: &Owner) -> StoreResult<Shards> {
        Ok(Shards { held: vec![(0, 0)] })
    }

    async fn outbox(&self, shards: &Shards, limit: u32) -> StoreResult<Vec<OutboxRow>> {
        if shards.held.is_empty() {
            return Ok(Vec::new());
        }
        let rows = query(ROWS).bind(limit);
        Ok(rows_of(&documents(rows, &mut *self.reader().await?).await?)?)
    }

    async fn delivered(&self, shards: &Shards, ids: &[i64]) -> StoreResult<u64> {
        if shards.held.is_empty() || ids.is_empty() {
            return Ok(0);
        }
        self.remove("delivered", None, ids.to_vec()).await
    }

    async fn refused(&self, shards: &Shards, id: i64, reason: &str) -> StoreResult<()> {
        if shards.held.is_empty() {
            return Ok(());
        }
        let reason = reason.to_owned();
        self.writer
            .write("refused", move |c, terms| {
                async move { refuse(c, terms, id, &reason).await }.boxed()
            })
            .await
    }

    async fn records(&self, group: Group, skip: &[i64], limit: u32) -> StoreResult<Vec<Record>> {
        let rows = query(OF_TOPIC).bind(group.topic().as_str()).bind(json(skip)?).bind(limit);
        let rows = rows_of(&documents(rows, &mut *self.reader().await?).await?)?;
        Ok(rows.into_iter().map(record).collect())
    }

    async fn acknowledge(&self, group: Group, rows: &[i64]) -> StoreResult<()> {
        if rows.is_empty() {
            return Ok(());
        }
        // A topic's group is its only one, so its word is enough for the row to go.
        self.remove("acknowledge", Some(group.topic()), rows.to_vec()).await.map(drop)
    }

    async fn bury(&self, group: Group, letter: NewDeadLetter) -> StoreResult<()> {
        self.writer
            .write("bury", move |c, terms| {
                async move { dead_letter::bury_record(c, terms, group, &letter).await }.boxed()
            })
            .await
    }
}

impl SqliteStore {
    async fn remove(
        &self,
        name: &'static str,
        topic: Option<Topic>,
        ids: Vec<i64>,
    ) -> StoreResult<u64> {
        let ids = json(&ids)?;
        self.writer
            .write(name, move |c, _| {
                async move {
                    let sql = "DELETE FROM message_outbox \
                               WHERE id IN (SELECT e.value FROM json_each($1) e) \
                               AND ($2 IS NULL OR topic = $2)";
                    let removed = query(sql).bind(ids).bind(topic.map(Topic::as_str));
                    Ok(removed.execute(c).await?.rows_affected())
                }
                .boxed()
            })
            .await
    }
}

macro_rules! row_json {
    () => {
        "SELECT json_object('id',o.id,'topic',o.topic,'session_id',hex(o.session_id),\
         'headers',o.headers,'payload',coalesce(o.payload,v.payload),'tenant',s.tenant,\
         'created_at',o.created_at) FROM message_outbox o \
         LEFT JOIN session_events v ON v.session_id = o.session_id AND v.seq = o.seq \
         LEFT JOIN session_envelopes s ON s.session_id = o.session_id "
    };
}

/// $1 limit
const ROWS: &str = concat!(row_json!(), "ORDER BY o.id LIMIT $1 + 0");

/// $1 topic, $2 ids to skip, $3 limit
const OF_TOPIC: &str = concat!(
    row_json!(),
    "WHERE o.topic = $1 AND o.id NOT IN (SELECT e.value FROM json_each($2) e) \
     ORDER BY o.id LIMIT $3 + 0"
);

/// $1 id
const ONE: &str = concat!(row_json!(), "WHERE o.id = $1");

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
    connection: &mut SqliteConnection,
    terms: Terms,
    id: i64,
    reason: &str,
) -> Result<(), Fault> {
    let rows = rows_of(&documents(query(ONE).bind(id), connection).await?)?;
    for row in rows {
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
