//! Sends messages to the gateway, and sends them again where that is safe.

use std::time::Duration;

use rand::Rng;
use serde_json::{Map, Value, json};
use soma_contract::{
    Event, EventId, EventType, Role, SessionId,
    message::{AcceptError, Accepted, NewMessage, RESERVED_METADATA},
    port::{policy::Action, store::StoreError},
    turn::TurnKind,
};
use soma_gateway::Accept;
use soma_runtime::CallError;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{call::Call, codes, edge::Edge, personas, problem::Problem};

/// How long the edge goes on by itself before the client is told to.
const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

const MAX_ATTACHMENTS: usize = 16;
const MAX_METADATA: usize = 64;

/// Accepts a message. It carries an event id, so that sending it again means the same message; an
/// outcome that is not known is found out by asking again.
pub(super) async fn accept(edge: &Edge, message: NewMessage) -> Result<Accepted, Problem> {
    let until = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        let (problem, again) = match edge.parts().accept.send(Accept(message.clone())).await {
            Ok(Ok(accepted)) => return Ok(accepted),
            Ok(Err(error)) => {
                let again = matches!(error, AcceptError::OutcomeUnknown(_)).then_some("outcome");
                (Problem::from(error), again)
            }
            Err(error) => {
                let again = reason_to_repeat(&error);
                (Problem::from(error), again)
            }
        };
        let Some(reason) = again else { return Err(problem) };
        // Full jitter: a restart is met by all its callers at once.
        let nap = rand::rng().random_range(Duration::ZERO..=pause);
        if Instant::now() + nap >= until {
            return Err(problem);
        }
        edge.metrics().accept_retried(reason);
        sleep(nap).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A message over which the gateway panicked is not sent again.
fn reason_to_repeat(error: &CallError) -> Option<&'static str> {
    match error {
        CallError::Restarting => Some("restarting"),
        CallError::Abandoned => Some("abandoned"),
        CallError::TimedOut => Some("timed_out"),
        CallError::Full | CallError::Stopped | CallError::Panicked(_) => None,
    }
}

/// What a client says, before anything is checked.
pub(super) struct Draft {
    pub(super) kind: TurnKind,
    pub(super) session_id: Option<SessionId>,
    pub(super) persona_id: Option<String>,
    pub(super) text: String,
    pub(super) attachments: Vec<String>,
    /// What the client may set.
    pub(super) metadata: Map<String, Value>,
    /// What only the platform sets.
    pub(super) platform: Map<String, Value>,
}

/// Checks a draft whole, so that nothing a worker relies on is checked later, and asks the policy.
pub(super) async fn compose(call: &Call, draft: Draft) -> Result<NewMessage, Problem> {
    let ids = &call.edge.parts().ids;
    check_metadata(&draft.metadata)?;
    if let Some(persona_id) = &draft.persona_id {
        personas::named(call, persona_id).await?;
    }
    check_attachments(call, &draft.attachments).await?;
    let session_id = draft.session_id.unwrap_or_else(|| SessionId(ids.draw()));
    let context = json!({"session_id": draft.session_id});
    call.permit(Action::ConversationSend, "message", draft.persona_id.clone(), context).await?;
    tracing::Span::current().record("session_id", tracing::field::display(session_id));

    let mut event = Event::new(EventId(ids.draw()), session_id, Role::User, EventType::User);
    event.persona_id = draft.persona_id;
    event.message = draft.text;
    event.attachments = draft.attachments;
    event.metadata = draft.metadata;
    event.metadata.extend(draft.platform);
    event.metadata.insert("tenant".to_owned(), call.caller.tenant.0.as_str().into());
    event.metadata.insert("subject".to_owned(), call.caller.subject.as_str().into());
    event.trace_context = call.passport.trace_context();
    Ok(NewMessage {
        tenant: call.caller.tenant.clone(),
        subject: call.caller.subject.clone(),
        kind: draft.kind,
        event,
        idempotency: call.idempotency.clone(),
    })
}

fn check_metadata(metadata: &Map<String, Value>) -> Result<(), Problem> {
    if let Some(name) = RESERVED_METADATA.iter().find(|name| metadata.contains_key(**name)) {
        let detail = format!("metadata may not set `{name}`: the platform does");
        return Err(Problem::new(codes::RESERVED_METADATA, detail));
    }
    if metadata.len() > MAX_METADATA {
        let detail = format!("metadata has {} entries, at most {MAX_METADATA}", metadata.len());
        return Err(Problem::new(codes::INVALID_BODY, detail));
    }
    Ok(())
}

async fn check_attachments(call: &Call, attachments: &[String]) -> Result<(), Problem> {
    if attachments.len() > MAX_ATTACHMENTS {
        let detail = format!("{} attachments, at most {MAX_ATTACHMENTS}", attachments.len());
        return Err(Problem::new(codes::INVALID_BODY, detail));
    }
    for attachment in attachments {
        let unknown = || {
            let detail = format!("there is no attachment `{attachment}`");
            Problem::new(codes::UNKNOWN_ATTACHMENT, detail)
        };
        let id: Uuid = attachment.parse().map_err(|_malformed| unknown())?;
        let (store, tenant) = (call.store(), call.caller.tenant.clone());
        let found = call
            .edge
            .ask(async move {
                match store.attachment(&tenant, id).await {
                    Ok(_) => Ok(true),
                    Err(StoreError::NotFound) => Ok(false),
                    Err(error) => Err(error),
                }
            })
            .await?;
        if !found {
            return Err(unknown());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_platform_sets_is_refused_from_clients() {
        for name in RESERVED_METADATA {
            let metadata = Map::from_iter([(name.to_owned(), Value::Null)]);
            let problem = check_metadata(&metadata).unwrap_err();
            assert_eq!(problem.code(), codes::RESERVED_METADATA, "{name}");
        }
        assert!(check_metadata(&Map::from_iter([("colour".to_owned(), json!("red"))])).is_ok());
    }

    #[test]
    fn only_what_may_be_repeated_is_repeated() {
        assert!(reason_to_repeat(&CallError::Restarting).is_some());
        assert!(reason_to_repeat(&CallError::Abandoned).is_some());
        assert!(reason_to_repeat(&CallError::Full).is_none());
        assert!(reason_to_repeat(&CallError::Stopped).is_none());
    }
}
