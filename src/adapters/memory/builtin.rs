//! The built-in memory service: the replica in the store is the memory, there is no second copy.

use std::sync::Arc;

use async_trait::async_trait;
use soma_contract::{
    TenantId,
    memory::{MemoryQuery, MemoryWrite, Recalled},
    port::{
        memory::{MemoryError, MemoryService, Receipt},
        store::{Store, StoreError},
    },
};

/// Takes every write at once, since settling it writes the replica, and recalls from the replica.
#[derive(Debug)]
pub struct BuiltinMemory {
    store: Arc<dyn Store>,
}

impl BuiltinMemory {
    /// Builds the service over the store that keeps the replica.
    pub const fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }
}

#[async_trait]
impl MemoryService for BuiltinMemory {
    async fn remember(&self, _write: &MemoryWrite, _key: &str) -> Result<Receipt, MemoryError> {
        Ok(Receipt::default())
    }

    async fn recall(
        &self,
        tenant: &TenantId,
        query: &MemoryQuery,
    ) -> Result<Vec<Recalled>, MemoryError> {
        self.store.search_memories(tenant, query).await.map_err(unavailable)
    }

    fn recalls_undelivered(&self) -> bool {
        true
    }

    async fn ping(&self) -> Result<(), MemoryError> {
        self.store.ping().await.map_err(unavailable)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as `map_err(unavailable)`")]
fn unavailable(error: StoreError) -> MemoryError {
    MemoryError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use soma_contract::{
        memory_suite,
        testing::{
            FakeClock, FakeStore,
            suite::memory::{MemoryFactory, MemoryWorld},
        },
    };

    use super::*;

    #[derive(Debug)]
    struct Builtins;

    #[async_trait]
    impl MemoryFactory for Builtins {
        async fn fresh(&self) -> MemoryWorld {
            let store = Arc::new(FakeStore::new(Arc::new(FakeClock::default())));
            MemoryWorld { service: Arc::new(BuiltinMemory::new(Arc::clone(&store) as _)), store }
        }
    }

    memory_suite!(Builtins);
}
