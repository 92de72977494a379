//! A memory service that keeps everything in a map and fails when told.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Mutex,
};

use async_trait::async_trait;
use uuid::Uuid;

use super::{locked, rank};
use crate::{
    ids::TenantId,
    memory::{MemoryOp, MemoryQuery, MemoryWrite, Recalled},
    port::memory::{MemoryError, MemoryService, Receipt},
};

/// Keeps memories, remembers what was delivered, and fails when told.
#[derive(Debug, Default)]
pub struct FakeMemory {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    down: bool,
    faults: VecDeque<MemoryError>,
    delivered: Vec<(MemoryWrite, String)>,
    receipts: HashMap<String, Receipt>,
    newest: BTreeMap<(TenantId, Uuid), MemoryWrite>,
}

impl FakeMemory {
    /// Builds an empty service.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fails the next delivery that no earlier call of this method fails, before it is taken.
    pub fn fail_next(&self, error: MemoryError) {
        locked(&self.inner).faults.push_back(error);
    }

    /// Makes every call fail until it is up again.
    pub fn set_down(&self, down: bool) {
        locked(&self.inner).down = down;
    }

    /// Returns every delivery that was taken, repetitions included, with its key.
    pub fn delivered(&self) -> Vec<(MemoryWrite, String)> {
        locked(&self.inner).delivered.clone()
    }
}

impl Inner {
    fn answer(&self) -> Result<(), MemoryError> {
        if self.down {
            return Err(MemoryError::Unavailable("the fake is down".to_owned()));
        }
        Ok(())
    }

    fn take(&mut self, write: &MemoryWrite, key: &str) -> Receipt {
        self.delivered.push((write.clone(), key.to_owned()));
        let number = self.receipts.len() + 1;
        if let Some(receipt) = self.receipts.get(key) {
            return receipt.clone();
        }
        let receipt = Receipt {
            coordinate: Some(format!("fake/{number}")),
            request_id: Some(format!("request-{number}")),
            trace_id: None,
        };
        self.receipts.insert(key.to_owned(), receipt.clone());
        let place = (write.memory.tenant.clone(), write.memory.memory_id);
        let known = self.newest.get(&place).map_or(0, |newest| newest.memory.version);
        if write.memory.version >= known {
            self.newest.insert(place, write.clone());
        }
        receipt
    }
}

#[async_trait]
impl MemoryService for FakeMemory {
    async fn remember(&self, write: &MemoryWrite, key: &str) -> Result<Receipt, MemoryError> {
        let mut inner = locked(&self.inner);
        inner.answer()?;
        match inner.faults.pop_front() {
            Some(error) => Err(error),
            None => Ok(inner.take(write, key)),
        }
    }

    async fn recall(
        &self,
        tenant: &TenantId,
        query: &MemoryQuery,
    ) -> Result<Vec<Recalled>, MemoryError> {
        let inner = locked(&self.inner);
        inner.answer()?;
        let alive = inner
            .newest
            .values()
            .filter(|write| write.op == MemoryOp::Put && write.memory.tenant == *tenant)
            .map(|write| Recalled { memory: write.memory.clone(), score: 0.0, pending: false });
        Ok(rank::ranked(alive, query))
    }

    async fn ping(&self) -> Result<(), MemoryError> {
        locked(&self.inner).answer()
    }
}
