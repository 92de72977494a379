//! Records that somebody else has written to the bus.

use serde_json::Value;
use sqlx::{Connection, SqliteConnection};
use uuid::Uuid;

use super::Setup;

/// A record with the headers of one who owes us nothing.
#[derive(Debug)]
pub(crate) struct Foreign {
    pub(super) topic: &'static str,
    pub(super) payload: Value,
}

impl Foreign {
    /// Composes a record.
    pub(crate) const fn of(topic: &'static str, payload: Value) -> Self {
        Self { topic, payload }
    }

    /// Writes it to the platform's bus. The embedded bus is in the store's file, which nobody may
    /// have open now.
    pub(crate) async fn write(&self, setup: &Setup) {
        #[cfg(feature = "cluster-platform")]
        if let Some(world) = setup.world() {
            return world.publish(self).await;
        }
        let file = setup.data_dir().join("somaagent.db");
        let url = format!("sqlite://{}", file.display());
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        let sql = "INSERT INTO message_outbox (topic, session_id, headers, payload, created_at) \
                   VALUES ($1, $2, '{}', $3, 0)";
        let row = sqlx::query(sql)
            .bind(self.topic)
            .bind(Uuid::now_v7().as_bytes().to_vec())
            .bind(self.payload.to_string());
        row.execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }
}
