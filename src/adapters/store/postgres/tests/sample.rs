//! Stores and messages for the tests.

use std::{sync::Arc, time::Duration};

use soma_contract::{
    EffectId, Event, EventId, EventType, Ids, Role, SessionId, TenantId,
    ids::{Owner, RandomIds, SystemClock},
    message::{Idempotency, NewMessage},
    port::store::{ClaimedTurn, Ending, JournalEntry},
    tool::{Effect, ToolOutcome},
    turn::{Step, StepKind, StepStatus, TurnKind, TurnStatus},
};
use tokio::runtime::Handle;

use super::{
    super::{Options, PostgresStore},
    database::Database,
};

pub(in crate::adapters::store) fn owner(name: &str) -> Owner {
    Owner(name.to_owned())
}

pub(in crate::adapters::store) fn tenant() -> TenantId {
    TenantId::public()
}

/// Opens a replica's store, whose leases only run out where a test says so.
pub(in crate::adapters::store) async fn replica(database: &Database) -> PostgresStore {
    let options = Options { lease: Duration::from_mins(1), ..database.options(false) };
    open(options).await
}

pub(in crate::adapters::store) async fn open(options: Options) -> PostgresStore {
    PostgresStore::connect(options, &Handle::current(), Arc::new(SystemClock)).await.unwrap()
}

pub(in crate::adapters::store) fn session() -> SessionId {
    SessionId(RandomIds.draw())
}

pub(in crate::adapters::store) fn message(session: SessionId, text: &str) -> NewMessage {
    let id = EventId(RandomIds.draw());
    let mut event = Event::new(id, session, Role::User, EventType::User);
    event.message = text.to_owned();
    NewMessage {
        tenant: tenant(),
        subject: "ann".to_owned(),
        kind: TurnKind::Message,
        event,
        idempotency: None,
    }
}

pub(in crate::adapters::store) fn keyed(message: NewMessage, key: &str) -> NewMessage {
    let idempotency = Idempotency {
        route: "/v1/session/message".to_owned(),
        key: key.to_owned(),
        body_hash: "hash".to_owned(),
    };
    NewMessage { idempotency: Some(idempotency), ..message }
}

pub(in crate::adapters::store) fn done(claimed: &ClaimedTurn) -> Ending {
    let turn = &claimed.turn;
    let id = EventId::terminal(turn.turn_id, turn.replay);
    let event = Event::new(id, turn.session_id, Role::Assistant, EventType::Final);
    Ending {
        status: TurnStatus::Done,
        event,
        reason: None,
        memory: Vec::new(),
        usage: soma_contract::model::Usage { input_tokens: 3, output_tokens: 4 },
        dead_letter: None,
    }
}

pub(in crate::adapters::store) fn call(claimed: &ClaimedTurn, index: u32, effect: Effect) -> Step {
    let turn = &claimed.turn;
    Step {
        effect_id: EffectId::of(turn.turn_id, 1, index),
        turn_id: turn.turn_id,
        session_id: turn.session_id,
        tenant: turn.tenant.clone(),
        step: 1,
        index,
        kind: StepKind::Tool,
        status: StepStatus::Requested,
        effect,
        name: "echo".to_owned(),
        call_id: format!("call-{index}"),
        input_hash: "00".to_owned(),
        arguments: serde_json::json!({ "text": "hé" }),
        result: serde_json::Value::Null,
        epoch: 0,
        trace: turn.trace.clone(),
    }
}

pub(in crate::adapters::store) fn entry(calls: Vec<Step>) -> JournalEntry {
    JournalEntry { answer: None, calls, worked_ms: 1 }
}

pub(in crate::adapters::store) fn outcome() -> ToolOutcome {
    soma_contract::testing::sample::outcome("done")
}
