//! What the executor is built of: ports, settings, and the one way to call a port.

use std::{future::Future, sync::Arc, time::Duration};

use soma_contract::{
    Owner, SessionId,
    port::{
        bus::Bus,
        live::{Live, LiveEvent, Nudge as Hint},
        policy::Policy,
        store::{Store, StoreError, StoreResult},
    },
};
use soma_runtime::{Io, Nudge};

use crate::{config::ToolsConfig, metrics::ToolMetrics, toolbox::Toolbox};

/// What an executor needs; shared by its incarnations.
#[derive(Debug, Clone)]
pub struct Parts {
    /// This process, as the store knows it.
    pub owner: Owner,
    /// The tools.
    pub toolbox: Toolbox,
    /// Where steps are claimed and settled.
    pub store: Arc<dyn Store>,
    /// Where readers and turns are told.
    pub live: Arc<dyn Live>,
    /// Where `tool.requests` is read.
    pub bus: Arc<dyn Bus>,
    /// Who allows.
    pub policy: Arc<dyn Policy>,
    /// Where port calls run.
    pub io: Io,
    /// Woken by whoever journals steps in this process.
    pub wake: Nudge,
    /// What is counted.
    pub metrics: ToolMetrics,
    /// Settings.
    pub config: ToolsConfig,
}

impl Parts {
    /// Asks the store for something.
    pub(crate) async fn ask<T, F>(
        &self,
        question: impl FnOnce(Arc<dyn Store>) -> F,
    ) -> StoreResult<T>
    where
        T: Send + 'static,
        F: Future<Output = StoreResult<T>> + Send + 'static,
    {
        let asked = question(Arc::clone(&self.store));
        match self.io.call(self.config.port_deadline, asked).await {
            Ok(answer) => answer,
            Err(error) => Err(StoreError::OutcomeUnknown(error.to_string())),
        }
    }

    /// Tells readers that the session's log has grown; best effort.
    pub(crate) async fn tell_readers(&self, session_id: SessionId, seq: u64) {
        self.tell(move |live| async move {
            live.publish(session_id, LiveEvent::Appended { seq }).await;
        })
        .await;
    }

    /// Tells readers and the turn's owner that a step has settled; best effort.
    pub(crate) async fn tell_settled(&self, session_id: SessionId, seq: u64) {
        self.tell(move |live| async move {
            live.publish(session_id, LiveEvent::Appended { seq }).await;
            live.nudge(Hint::Session { session_id }).await;
        })
        .await;
    }

    async fn tell<F>(&self, telling: impl FnOnce(Arc<dyn Live>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let told = self.io.call(Duration::from_secs(1), telling(Arc::clone(&self.live))).await;
        if let Err(error) = told {
            tracing::debug!(%error, "a live hint was not sent; its readers poll");
        }
    }
}
