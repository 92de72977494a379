//! Keeps the count of the backlog fresh enough to decide on.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    time::Duration,
};

use soma_contract::{TenantId, message::AcceptError};
use tokio::{sync::Mutex, time::Instant};

use crate::{actor::Desk, admission::Admission};

/// A refusal by a count older than this is checked by a new one.
const FRESH: Duration = Duration::from_millis(50);

/// The admission and when it was counted.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    admission: RefCell<Admission>,
    /// Held while the store counts: one count at a time, so that none hides what another missed.
    counting: Mutex<()>,
    counted_at: Cell<Option<Instant>>,
}

impl Counter {
    /// Admits a message. An estimate that would refuse it is replaced by a count first.
    pub(crate) async fn admit(&self, desk: &Desk, tenant: &TenantId) -> Result<(), AcceptError> {
        let refused = match self.try_admit(desk, tenant) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        let is_old = self.counted_at.get().is_none_or(|at| at.elapsed() > FRESH);
        if !is_old || !self.admission.borrow().is_estimate() {
            return Err(refused);
        }
        self.count(desk).await;
        self.try_admit(desk, tenant)
    }

    fn try_admit(&self, desk: &Desk, tenant: &TenantId) -> Result<(), AcceptError> {
        self.admission.borrow_mut().admit(tenant, &desk.config)
    }

    /// Notes what became of the admitted messages.
    pub(crate) fn settle<'t>(&self, accepted: impl Iterator<Item = &'t TenantId>) {
        self.admission.borrow_mut().settle(accepted);
    }

    /// Asks the store for a count. Without an answer the estimate stays.
    pub(crate) async fn count(&self, desk: &Desk) {
        let _one_at_a_time = self.counting.lock().await;
        self.admission.borrow_mut().count_begins();
        let store = Arc::clone(&desk.ports.store);
        let counted = desk
            .ports
            .io
            .call(desk.config.commit_deadline, async move { store.backlog().await })
            .await;
        match counted {
            Ok(Ok(backlog)) => self.admission.borrow_mut().counted(backlog),
            Ok(Err(error)) => tracing::debug!(%error, "the backlog cannot be counted"),
            Err(error) => tracing::debug!(%error, "the backlog cannot be counted"),
        }
        self.counted_at.set(Some(Instant::now()));
        let total = i64::try_from(self.admission.borrow().total()).unwrap_or(i64::MAX);
        desk.metrics.backlog.set(total);
    }
}
