//! The consumer of `conversation.inbound`, on the I/O runtime: one short transaction, then the
//! acknowledgement; the work itself is the session's.

use std::{collections::HashSet, sync::Arc, time::Duration};

use soma_contract::{
    Classified, EventId, Kind, SessionId, TenantId,
    message::{Accepted, NewMessage},
    port::{
        bus::{Bus, Record},
        live::{Live, LiveEvent},
        store::{Store, StoreError},
    },
    topic::Group,
};
use tokio::{sync::mpsc, time::sleep};

use crate::{
    config,
    metrics::Metrics,
    record::{self, Meaning},
    run::Shared,
};

/// The pause after something did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Receives records and says which sessions to look at.
#[derive(Debug)]
pub(crate) struct Intake {
    bus: Arc<dyn Bus>,
    store: Arc<dyn Store>,
    live: Arc<dyn Live>,
    config: config::Intake,
    metrics: Metrics,
    sessions: mpsc::Sender<SessionId>,
}

/// Why records cannot be handled now.
#[derive(Debug, thiserror::Error)]
enum NotNow {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Accept(String),
    #[error("{queued} turns wait already: no foreign message is taken")]
    BacklogFull { queued: u64 },
}

impl Intake {
    pub(crate) fn of(shared: &Shared, sessions: mpsc::Sender<SessionId>) -> Self {
        Self {
            bus: Arc::clone(&shared.ports.bus),
            store: Arc::clone(&shared.ports.store),
            live: Arc::clone(&shared.ports.live),
            config: shared.config.intake.clone(),
            metrics: shared.metrics.clone(),
            sessions,
        }
    }

    /// Receives for as long as it is let.
    pub(crate) async fn run(self) {
        let mut consumer = self.bus.subscribe(Group::ConversationWorker);
        loop {
            match consumer.receive(self.config.batch, self.config.wait).await {
                Ok(records) if records.is_empty() => {}
                Ok(records) => {
                    self.handle_all(&records).await;
                    if let Err(error) = consumer.acknowledge(&records).await {
                        // They are read again, which changes nothing.
                        tracing::warn!(%error, "records are not acknowledged");
                    }
                    if records.len() >= self.config.batch {
                        continue;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "no records can be received");
                    sleep(RETRY).await;
                }
            }
            sleep(self.config.pause).await;
        }
    }

    /// Handles records, again and again until all are: a partition whose work cannot be stored
    /// stands still, and so do records behind a full backlog.
    async fn handle_all(&self, records: &[Record]) {
        while let Err(error) = self.handle(records).await {
            tracing::warn!(%error, records = records.len(), "records wait");
            sleep(RETRY).await;
        }
    }

    /// Handles records once; repeatable.
    async fn handle(&self, records: &[Record]) -> Result<(), NotNow> {
        let mut foreign = Vec::new();
        for record in records {
            match record::meaning(record, self.config.max_bytes) {
                Meaning::Look { session_id, check } => {
                    self.look(record, session_id, check).await?;
                }
                Meaning::Accept(message) => foreign.push((record, *message)),
                Meaning::Bury { reason } => self.bury(record, reason).await?,
            }
        }
        self.accept(foreign).await
    }

    async fn look(
        &self,
        record: &Record,
        session_id: SessionId,
        check: Option<(TenantId, EventId)>,
    ) -> Result<(), NotNow> {
        if let Some((tenant, event_id)) = check {
            match self.store.message(&tenant, event_id).await {
                Ok(_) => {}
                Err(StoreError::NotFound) => {
                    let reason = "it has a number, but there is no such turn".to_owned();
                    return self.bury(record, reason).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.count("ours");
        self.send(session_id).await;
        Ok(())
    }

    /// Accepts foreign messages as if they had come by the edge: once per event id.
    async fn accept(&self, foreign: Vec<(&Record, NewMessage)>) -> Result<(), NotNow> {
        if foreign.is_empty() {
            return Ok(());
        }
        let queued = self.store.backlog().await?.total;
        if queued >= self.config.backlog_total {
            return Err(NotNow::BacklogFull { queued });
        }
        let mut seen = HashSet::new();
        let (records, messages): (Vec<&Record>, Vec<NewMessage>) =
            foreign.into_iter().filter(|(_, message)| seen.insert(message.event.event_id)).unzip();
        let mut not_now = None;
        for (record, answer) in records.into_iter().zip(self.store.accept(messages).await) {
            match answer {
                Ok(accepted) => self.accepted(&accepted).await,
                Err(error) if error.kind() == Kind::Retry => {
                    not_now = Some(NotNow::Accept(error.to_string()));
                }
                Err(error) => self.bury(record, error.to_string()).await?,
            }
        }
        not_now.map_or(Ok(()), Err)
    }

    async fn accepted(&self, accepted: &Accepted) {
        self.count("foreign");
        self.send(accepted.session_id).await;
        let event = LiveEvent::Appended { seq: accepted.seq };
        self.live.publish(accepted.session_id, event).await;
    }

    async fn bury(&self, record: &Record, reason: String) -> Result<(), NotNow> {
        tracing::warn!(position = ?record.position, reason, "a record goes to the dead letters");
        let letter = record::dead_letter(record, reason);
        self.store.bury(Group::ConversationWorker, letter).await?;
        self.count("buried");
        Ok(())
    }

    async fn send(&self, session_id: SessionId) {
        // Nobody listens when the incarnation ends, and then this ends too.
        self.sessions.send(session_id).await.ok();
    }

    fn count(&self, meaning: &str) {
        self.metrics.records.with_label_values(&[meaning]).inc();
    }
}
