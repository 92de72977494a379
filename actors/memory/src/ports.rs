//! What the workers need of the world.

use std::{future::Future, sync::Arc, time::Duration};

use soma_contract::{
    Clock, Owner,
    port::{
        bus::Bus,
        memory::MemoryService,
        store::{Store, StoreResult},
    },
};
use soma_runtime::{Cause, Io};

/// The ports of the three workers.
#[derive(Debug, Clone)]
pub struct MemoryPorts {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// Where outbox rows go and `memory.wal` comes from.
    pub bus: Arc<dyn Bus>,
    /// Where memory writes go.
    pub memory: Arc<dyn MemoryService>,
    /// For the age of what is replicated.
    pub clock: Arc<dyn Clock>,
    /// Holds the leases on shards.
    pub owner: Owner,
    /// Where port calls run.
    pub io: Io,
}

impl MemoryPorts {
    /// Calls the store on the I/O runtime.
    pub(crate) async fn store<T, F, Fut>(&self, deadline: Duration, call: F) -> Result<T, Cause>
    where
        F: FnOnce(Arc<dyn Store>) -> Fut,
        Fut: Future<Output = StoreResult<T>> + Send + 'static,
        T: Send + 'static,
    {
        Ok(self.io.call(deadline, call(Arc::clone(&self.store))).await??)
    }
}
