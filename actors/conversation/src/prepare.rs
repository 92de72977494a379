//! What is read before the first step: persona, history, memories, and what policy says of them.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use soma_contract::{
    Event, SessionId, TenantId,
    memory::{MemoryQuery, Recalled},
    persona::Persona,
    port::{
        memory::MemoryService,
        policy::{Action, Decision, Policy, PolicyInput},
        store::{Store, StoreError, StoreResult},
    },
};
use tokio::time::timeout;

use crate::{
    calls,
    context::{self, Context},
    run::{Run, Stop},
};

/// What is recalled for is at most this much of a message: a long one is a document, and searching
/// for all its words would cost more than it finds.
const RECALL_CHARS: usize = 500;

/// What a turn has ready before its first step.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) context: Arc<Context>,
    /// Tokens that the tenant had used today; 0 where no limit asks for them.
    pub(crate) tokens_today: u64,
    pub(crate) may_remember: bool,
}

/// What is asked, for all parts at once.
struct Question {
    memory: Arc<dyn MemoryService>,
    policy: Arc<dyn Policy>,
    tenant: TenantId,
    persona_id: Option<String>,
    personas: Arc<[Persona]>,
    session_id: SessionId,
    n: u64,
    history_events: u32,
    count_tokens: bool,
    recall: Option<MemoryQuery>,
    recall_deadline: Duration,
    remember: Option<PolicyInput>,
}

/// What was found.
struct Found {
    persona: Persona,
    history: Vec<Event>,
    memories: Vec<Recalled>,
    recall_failed: bool,
    tokens_today: u64,
    may_remember: bool,
}

/// Reads everything, side by side, in one call.
pub(crate) async fn prepare(run: &Run) -> Result<Prepared, Stop> {
    let question = Arc::new(Question::of(run));
    let found =
        run.persist("read what a turn needs", |store| read(store, Arc::clone(&question))).await?;
    if found.recall_failed {
        run.shared.metrics.recall_failures.inc();
    }
    let tools = calls::usable(run.shared.ports.tools.as_ref(), &found.persona);
    let Found { persona, history, memories, tokens_today, may_remember, .. } = found;
    let context = Context::new(persona, tools, &memories, &history, &run.said);
    Ok(Prepared { context: Arc::new(context), tokens_today, may_remember })
}

/// Reads the persona that the turn speaks with.
pub(crate) async fn persona(run: &Run) -> Result<Persona, Stop> {
    let tenant = run.turn.tenant.clone();
    let persona_id = run.said.persona_id.clone();
    run.persist("read a persona", |store| {
        let (tenant, persona_id) = (tenant.clone(), persona_id.clone());
        let of_all = Arc::clone(&run.shared.config.personas);
        async move { persona_of(store.as_ref(), &of_all, &tenant, persona_id.as_deref()).await }
    })
    .await
}

impl Question {
    fn of(run: &Run) -> Self {
        let config = &run.shared.config;
        let ports = &run.shared.ports;
        let text: String = run.said.message.trim().chars().take(RECALL_CHARS).collect();
        let recall = (config.recall_limit > 0 && !text.is_empty()).then(|| MemoryQuery {
            text,
            limit: config.recall_limit,
            ..MemoryQuery::default()
        });
        Self {
            memory: Arc::clone(&ports.memory),
            policy: Arc::clone(&ports.policy),
            tenant: run.turn.tenant.clone(),
            persona_id: run.said.persona_id.clone(),
            personas: Arc::clone(&config.personas),
            session_id: run.turn.session_id,
            n: run.turn.n,
            history_events: config.history_events(),
            count_tokens: config.caps.tokens_per_day > 0,
            recall,
            recall_deadline: config.recall_deadline,
            remember: config.remember.then(|| memory_write(run)),
        }
    }
}

fn memory_write(run: &Run) -> PolicyInput {
    let subject = run.said.metadata.get("subject").and_then(Value::as_str).unwrap_or_default();
    PolicyInput {
        tenant: run.turn.tenant.clone(),
        subject: subject.to_owned(),
        persona_id: run.said.persona_id.clone(),
        action: Action::MemoryWrite,
        resource: "memory".to_owned(),
        context: json!({ "session_id": run.turn.session_id }),
    }
}

async fn read(store: Arc<dyn Store>, question: Arc<Question>) -> StoreResult<Found> {
    let store = store.as_ref();
    let (persona, history, recalled, tokens_today, may_remember) = tokio::join!(
        persona_of(store, &question.personas, &question.tenant, question.persona_id.as_deref()),
        history(store, &question),
        recall(store, &question),
        tokens_today(store, &question),
        may_remember(&question),
    );
    let (history, (pending, recalled)) = (history?, recalled);
    let recall_failed = recalled.is_none();
    let memories = match &question.recall {
        Some(query) => {
            let recalled = recalled.unwrap_or_default();
            context::merge(pending, recalled, question.session_id, &history, query.limit)
        }
        None => Vec::new(),
    };
    Ok(Found {
        persona: persona?,
        history,
        memories,
        recall_failed,
        tokens_today: tokens_today?,
        may_remember,
    })
}

/// Returns the named persona: the tenant's own, else one that every tenant has, else the built-in one.
async fn persona_of(
    store: &dyn Store,
    of_all: &[Persona],
    tenant: &TenantId,
    persona_id: Option<&str>,
) -> StoreResult<Persona> {
    let persona_id = persona_id.unwrap_or(Persona::DEFAULT);
    match store.persona(tenant, persona_id).await {
        Err(StoreError::NotFound) => {
            if let Some(persona) = of_all.iter().find(|known| known.persona_id == persona_id) {
                return Ok(persona.clone());
            }
            if persona_id != Persona::DEFAULT {
                tracing::warn!(persona_id, "no such persona; the built-in one speaks");
            }
            Ok(Persona::built_in())
        }
        found => found,
    }
}

async fn history(store: &dyn Store, question: &Question) -> StoreResult<Vec<Event>> {
    // The first message of a session has none.
    if question.n <= 1 {
        return Ok(Vec::new());
    }
    store.history(question.session_id, question.n, question.history_events).await
}

/// Returns what is on its way, unless the memory service gives that, too, and what it gives; `None`:
/// it did not answer, and the turn goes on without.
async fn recall(store: &dyn Store, question: &Question) -> (Vec<Recalled>, Option<Vec<Recalled>>) {
    let Some(query) = &question.recall else { return (Vec::new(), Some(Vec::new())) };
    let recalled =
        timeout(question.recall_deadline, question.memory.recall(&question.tenant, query));
    let undelivered = async {
        if question.memory.recalls_undelivered() {
            return Ok(Vec::new());
        }
        store.search_pending(&question.tenant, query).await
    };
    let (pending, recalled) = tokio::join!(undelivered, recalled);
    let pending = pending.unwrap_or_else(|error| {
        tracing::warn!(%error, "undelivered memories cannot be searched; going on without");
        Vec::new()
    });
    let recalled = match recalled {
        Ok(Ok(recalled)) => Some(recalled),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the memory does not answer; going on without");
            None
        }
        Err(_elapsed) => {
            tracing::warn!("the memory does not answer in time; going on without");
            None
        }
    };
    (pending, recalled)
}

async fn tokens_today(store: &dyn Store, question: &Question) -> StoreResult<u64> {
    if question.count_tokens { store.tokens_today(&question.tenant).await } else { Ok(0) }
}

/// No answer means no.
async fn may_remember(question: &Question) -> bool {
    let Some(input) = &question.remember else { return false };
    match question.policy.decide(input).await {
        Ok(Decision::Allow) => true,
        Ok(Decision::Deny(reason)) => {
            tracing::debug!(reason, "policy forbids to remember this turn");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "this turn is not remembered");
            false
        }
    }
}
