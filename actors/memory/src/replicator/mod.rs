//! `memory-replicator`: applies what other systems write to `memory.wal`.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use soma_contract::{
    kind::{Classified, Kind},
    port::{
        bus::{Consumer, Position, Record},
        store::{Store, StoreError},
    },
    topic::Group,
};
use soma_runtime::{Cause, Pass, Worker};
use tokio::sync::Mutex;

use crate::{
    MemoryConfig, MemoryMetrics, MemoryPorts,
    wal::{self, WalWrite},
};

/// Reads and applies.
#[derive(Debug)]
pub(crate) struct MemoryReplicator {
    ports: MemoryPorts,
    config: MemoryConfig,
    metrics: MemoryMetrics,
    /// Its connection lives on the I/O runtime, so that calls take it along.
    consumer: Arc<Mutex<Box<dyn Consumer>>>,
    /// Received and not yet acknowledged: the bus does not hand them out twice.
    in_hand: Arc<VecDeque<Record>>,
    /// How many of them are applied or buried.
    handled: usize,
}

impl MemoryReplicator {
    pub(crate) fn new(ports: &MemoryPorts, config: MemoryConfig, metrics: MemoryMetrics) -> Self {
        let consumer = ports.bus.subscribe(Group::MemoryReplicator);
        Self {
            ports: ports.clone(),
            config,
            metrics,
            consumer: Arc::new(Mutex::new(consumer)),
            in_hand: Arc::default(),
            handled: 0,
        }
    }

    async fn receive(&mut self) -> Result<(), Cause> {
        let (consumer, max) = (Arc::clone(&self.consumer), self.config.record_batch);
        let receive = async move { consumer.lock().await.receive(max, Duration::ZERO).await };
        let records = self.ports.io.call(self.config.store_deadline, receive).await??;
        (self.in_hand, self.handled) = (Arc::new(records.into()), 0);
        Ok(())
    }

    async fn acknowledge(&mut self) -> Result<(), Cause> {
        let (consumer, records) = (Arc::clone(&self.consumer), Arc::clone(&self.in_hand));
        let acknowledge = async move {
            let records: Vec<Record> = records.iter().cloned().collect();
            consumer.lock().await.acknowledge(&records).await
        };
        let outcome = self.ports.io.call(self.config.store_deadline, acknowledge).await;
        // Applied is applied: should the bus not have heard, it hands them out again after a restart.
        self.in_hand = Arc::default();
        Ok(outcome??)
    }

    async fn handle(&self, record: &Record) -> Result<(), Cause> {
        if matches!(record.position, Position::Row(_)) {
            // A bus in this process: nobody but us writes to it.
            self.count("own");
            return Ok(());
        }
        match wal::decode(record) {
            Ok(write) => self.apply(record, write).await,
            Err(fault) => self.bury(record, &fault.to_string()).await,
        }
    }

    async fn apply(
        &self,
        record: &Record,
        WalWrite { write, receipt }: WalWrite,
    ) -> Result<(), Cause> {
        let age = self.ports.clock.now() - write.memory.written_at;
        let timer = self.metrics.replicate_seconds.start_timer();
        let store = Arc::clone(&self.ports.store);
        let replicate = async move { store.replicate(write, receipt).await };
        let outcome = self.ports.io.call(self.config.store_deadline, replicate).await?;
        match outcome {
            Ok(is_news) => {
                timer.observe_duration();
                self.count(if is_news { "ok" } else { "own" });
                self.metrics.replicate_lag.set(age.as_seconds_f64().max(0.0));
                Ok(())
            }
            Err(StoreError::Refused(reason)) => self.bury(record, &reason).await,
            Err(error) => {
                debug_assert_ne!(error.kind(), Kind::Bug);
                Err(error.into())
            }
        }
    }

    async fn bury(&self, record: &Record, reason: &str) -> Result<(), Cause> {
        tracing::warn!(reason, "a record of memory.wal cannot be applied: it is a dead letter");
        self.count("error");
        let letter = wal::dead_letter(record, reason);
        let bury = |store: Arc<dyn Store>| async move {
            store.bury(Group::MemoryReplicator, letter).await
        };
        self.ports.store(self.config.store_deadline, bury).await
    }

    fn count(&self, result: &str) {
        self.metrics.replicated.with_label_values(&[result]).inc();
    }
}

impl Worker for MemoryReplicator {
    async fn pass(&mut self) -> Result<Pass, Cause> {
        if self.in_hand.is_empty() {
            self.receive().await?;
        }
        if self.in_hand.is_empty() {
            return Ok(Pass::Idle);
        }
        let records = Arc::clone(&self.in_hand);
        for record in records.iter().skip(self.handled) {
            self.handle(record).await?;
            self.handled += 1;
        }
        self.acknowledge().await?;
        Ok(Pass::Busy)
    }
}

#[cfg(test)]
mod tests;
