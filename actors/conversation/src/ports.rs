//! What the worker is given: ports, the I/O runtime, and who it is.

use std::{sync::Arc, time::Duration};

use soma_contract::{
    Clock, Ids, Owner,
    model::TokenCounter,
    port::{
        bus::Bus,
        live::Live,
        memory::MemoryService,
        model::Model,
        policy::Policy,
        store::{Store, StoreError, StoreResult},
    },
    tool::ToolCatalog,
};
use soma_runtime::{Io, IoError, Nudge};

use crate::Doorbell;

/// Everything that the worker needs of the world.
#[derive(Debug, Clone)]
pub struct Ports {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// Fan-out and hints.
    pub live: Arc<dyn Live>,
    /// Where `conversation.inbound` is read.
    pub bus: Arc<dyn Bus>,
    /// Who answers.
    pub model: Arc<dyn Model>,
    /// What is recalled.
    pub memory: Arc<dyn MemoryService>,
    /// Whether a turn may be remembered.
    pub policy: Arc<dyn Policy>,
    /// What the model may call.
    pub tools: Arc<dyn ToolCatalog>,
    /// The measure of prompts.
    pub counter: Arc<dyn TokenCounter>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// New ids, for events that are not kept.
    pub ids: Arc<dyn Ids>,
    /// Where port calls run.
    pub io: Io,
    /// Wakes the tool executor of this process.
    pub wake_tools: Nudge,
    /// Rung by those in this process who make turns claimable.
    pub doorbell: Doorbell,
    /// Who claims.
    pub owner: Owner,
}

impl Ports {
    /// Makes one call of the store on the I/O runtime.
    pub(crate) async fn store<T, F>(
        &self,
        deadline: Duration,
        call: impl FnOnce(Arc<dyn Store>) -> F,
    ) -> StoreResult<T>
    where
        T: Send + 'static,
        F: Future<Output = StoreResult<T>> + Send + 'static,
    {
        match self.io.call(deadline, call(Arc::clone(&self.store))).await {
            Ok(answer) => answer,
            Err(IoError::TimedOut) => {
                Err(StoreError::OutcomeUnknown("no answer in time".to_owned()))
            }
            Err(IoError::Fenced) => Err(StoreError::Fenced),
            Err(IoError::Closed) => {
                Err(StoreError::Unavailable("the i/o runtime has ended".to_owned()))
            }
        }
    }
}
