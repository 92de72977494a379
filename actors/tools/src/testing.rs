//! What the tests of this crate share: a tool that does as it is told, and a call's context.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use soma_contract::{
    EffectId, SessionId, TenantId, TurnId,
    tool::{Effect, ToolSpec},
};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::tool::{CallContext, Cancel, Tool, ToolError, ToolOutput};

/// What a scripted tool does when it is run.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    Return(Result<ToolOutput, ToolError>),
    Panic,
    Hang,
    /// Returns once a permit can be had.
    Wait(Arc<Semaphore>),
}

/// A tool without parameters that counts its runs.
#[derive(Debug, Clone)]
pub(crate) struct Scripted {
    pub(crate) spec: ToolSpec,
    pub(crate) act: Act,
    /// One permit for each run that has begun.
    pub(crate) begun: Arc<Semaphore>,
    pub(crate) runs: Arc<AtomicUsize>,
    /// Runs that were dropped or have ended.
    pub(crate) over: Arc<Semaphore>,
}

impl Scripted {
    pub(crate) fn named(name: &str) -> Self {
        Self {
            spec: ToolSpec {
                name: name.to_owned(),
                description: "Does as it is told.".to_owned(),
                parameters: json!({"type": "object"}),
                effect: Effect::Pure,
                timeout: Duration::from_mins(1),
                max_output_bytes: 1024,
            },
            act: Act::Return(Ok(json!("done").into())),
            begun: Arc::new(Semaphore::new(0)),
            runs: Arc::new(AtomicUsize::new(0)),
            over: Arc::new(Semaphore::new(0)),
        }
    }

    pub(crate) fn with(mut self, effect: Effect, act: Act) -> Self {
        self.spec.effect = effect;
        self.act = act;
        self
    }

    pub(crate) fn count(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

/// Adds a permit when dropped.
struct Over(Arc<Semaphore>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

#[async_trait]
impl Tool for Scripted {
    fn spec(&self) -> ToolSpec {
        self.spec.clone()
    }

    async fn run(&self, _arguments: Value, _call: CallContext) -> Result<ToolOutput, ToolError> {
        let _over = Over(Arc::clone(&self.over));
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.begun.add_permits(1);
        match &self.act {
            Act::Return(result) => result.clone(),
            Act::Panic => panic!("scripted panic"),
            Act::Hang => std::future::pending().await,
            Act::Wait(gate) => {
                gate.acquire().await.unwrap().forget();
                Ok(json!("released").into())
            }
        }
    }
}

/// A call of a subject `ada` of tenant `acme`.
pub(crate) fn call_context() -> CallContext {
    let session_id = SessionId(Uuid::from_u128(1));
    let turn_id = TurnId::of(session_id, 1);
    CallContext {
        effect_id: EffectId::of(turn_id, 1, 0),
        tenant: TenantId("acme".to_owned()),
        session_id,
        turn_id,
        subject: "ada".to_owned(),
        persona_id: None,
        cancel: Cancel::default(),
    }
}
