//! One member of a group, as the services see it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use soma_contract::{
    port::bus::{BusError, Consumer, Record},
    topic::Group,
};
use tokio::time::{Instant, timeout_at};

use super::{
    reader::{Desk, Reader, Readers},
    settings::Options,
    topics::Topics,
};

/// Receives what its reader has read. Dropping it makes the reader commit and leave the group.
#[derive(Debug)]
pub(super) struct KafkaConsumer {
    pub(super) desk: Arc<Desk>,
}

impl KafkaConsumer {
    /// Starts a reader on a thread of its own.
    pub(super) fn start(
        group: Group,
        options: &Options,
        topics: Arc<Topics>,
        readers: &Arc<Readers>,
    ) -> Self {
        let desk = Arc::new(Desk::default());
        Reader::start(group, options, topics, &desk, readers);
        Self { desk }
    }
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn receive(&mut self, max: usize, wait: Duration) -> Result<Vec<Record>, BusError> {
        let deadline = Instant::now() + wait;
        loop {
            // Enrolled before the look, so that no news comes unheard between the two.
            let mut news = std::pin::pin!(self.desk.news());
            news.as_mut().enable();
            let records = self.desk.take(max)?;
            if !records.is_empty() || timeout_at(deadline, news).await.is_err() {
                return Ok(records);
            }
        }
    }

    /// Notes it; the reader commits it soon. What it could not commit is read again.
    async fn acknowledge(&mut self, records: &[Record]) -> Result<(), BusError> {
        self.desk.finish(records);
        Ok(())
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.desk.leave();
    }
}
