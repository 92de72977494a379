//! OpenAI's chat completions over the same durable turns.
//!
//! Which session a request belongs to:
//! - the header `X-Session-ID` names one (a UUID);
//! - else the field `user` does: the same user of the same subject has the same session;
//! - else the request begins a new session, which the answer's `X-Session-ID` names.
//!
//! What becomes of the `messages` that the client sends along:
//! - A new session has no history of its own: everything before the last message is given to the
//!   model as what was said before.
//! - A named session has its history in its log, which counts: of the array only what follows the
//!   last answer is taken as the new message, and texts of the roles `system` and `developer` as
//!   instructions for this turn. What the client repeats of the past is not taken twice.
//!
//! A client that goes away does not cancel its turn: the message is accepted and is answered. The
//! answer is in the session's log, and a repetition with the same `Idempotency-Key` returns it.
//!
//! Sampling parameters are the operator's, not the request's, and are ignored. What would change the
//! shape of the answer (`n`, `tools`, `response_format`, …) is refused.

mod answer;
mod models;
mod request;
mod said;
mod stream;

use std::time::Duration;

use actix_web::http::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use soma_contract::{
    SessionId, TenantId,
    message::{Accepted, PRIOR_MESSAGES},
    port::store::StoreError,
    turn::TurnKind,
};
use uuid::Uuid;

pub(super) use self::{
    answer::ChatCompletion,
    models::{Model, Models, model, models},
    request::ChatCompletionRequest,
};
use self::{answer::Heading, request::Asked};
use super::{
    accept::{self, Draft},
    call::Call,
    codes,
    follow::Follower,
    idempotency,
    problem::{Answer, Problem},
};

const X_SESSION_ID: HeaderName = HeaderName::from_static("x-session-id");

/// A user whose session was deleted gets another one, up to this many times.
const MAX_SESSIONS_OF_USER: u32 = 16;

/// `POST /v1/chat/completions`.
pub(super) async fn chat(call: Call) -> Answer {
    let request: ChatCompletionRequest = call.json()?;
    let persona = models::persona(&call, &request.model).await?;
    let session = Session::of(&call, &request)?;
    let asked = request.asked(session.is_named())?;
    let (accepted, follower) = accept_in(&call, &session, persona, &asked).await?;
    let heading = Heading::new(&accepted, &request.model, call.edge.parts().clock.now());
    let mut response = if request.stream {
        stream::respond(&call, follower, &accepted, heading, request.wants_usage())
    } else {
        whole(&call, follower, &accepted, &heading).await?
    };
    if let Ok(value) = HeaderValue::from_str(&accepted.session_id.to_string()) {
        response.headers_mut().insert(X_SESSION_ID, value);
    }
    if accepted.replayed {
        idempotency::mark_replayed(&mut response);
    }
    Ok(response)
}

/// Which session a request belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Session {
    New,
    Named(SessionId),
    OfUser { tenant: TenantId, subject: String, user: String },
}

impl Session {
    fn of(call: &Call, request: &ChatCompletionRequest) -> Result<Self, Problem> {
        if let Some(text) = call.header(X_SESSION_ID.as_str()) {
            let id = text.parse().map_err(|_malformed| {
                Problem::new(codes::INVALID_ID, "the header `X-Session-ID` is not a UUID")
            })?;
            return Ok(Self::Named(id));
        }
        Ok(match &request.user {
            Some(user) if !user.is_empty() => Self::OfUser {
                tenant: call.caller.tenant.clone(),
                subject: call.caller.subject.clone(),
                user: user.clone(),
            },
            _ => Self::New,
        })
    }

    const fn is_named(&self) -> bool {
        !matches!(self, Self::New)
    }

    /// Returns the id; `generation` counts the sessions of a user that were deleted.
    fn id(&self, generation: u32) -> Option<SessionId> {
        match self {
            Self::New => None,
            Self::Named(id) => Some(*id),
            Self::OfUser { tenant, subject, user } => {
                let name = format!("openai/{tenant}\n{subject}\n{user}\n{generation}");
                Some(SessionId(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())))
            }
        }
    }
}

/// Accepts the message. Whoever waits for its answer listens before it is sent.
async fn accept_in(
    call: &Call,
    session: &Session,
    persona: Option<String>,
    asked: &Asked,
) -> Result<(Accepted, Follower), Problem> {
    let mut generation = 0;
    loop {
        let draft = draft(session.id(generation), persona.clone(), asked);
        let message = accept::compose(call, draft).await?;
        let session_id = message.event.session_id;
        let mut follower = Follower::open(&call.edge, &call.caller.tenant, session_id).await;
        match accept::accept(&call.edge, message).await {
            Ok(accepted) => {
                if accepted.session_id != session_id {
                    let id = accepted.session_id;
                    follower = Follower::open(&call.edge, &call.caller.tenant, id).await;
                }
                follower.begin_after(accepted.seq, accepted.replayed);
                return Ok((accepted, follower));
            }
            Err(problem)
                if problem.code() == codes::SESSION_DELETED
                    && matches!(session, Session::OfUser { .. })
                    && generation < MAX_SESSIONS_OF_USER =>
            {
                generation += 1;
            }
            Err(problem) => return Err(problem),
        }
    }
}

fn draft(session_id: Option<SessionId>, persona_id: Option<String>, asked: &Asked) -> Draft {
    let mut platform = Map::new();
    platform.insert("source".to_owned(), Value::from("openai"));
    if !asked.prior.is_empty() {
        platform.insert(PRIOR_MESSAGES.to_owned(), json!(asked.prior));
    }
    Draft {
        kind: TurnKind::Message,
        session_id,
        persona_id,
        text: asked.text.clone(),
        attachments: Vec::new(),
        metadata: Map::new(),
        platform,
    }
}

/// Waits for the end and answers it whole.
async fn whole(
    call: &Call,
    mut follower: Follower,
    accepted: &Accepted,
    heading: &Heading,
) -> Answer {
    let awaited = accepted.clone();
    let deadline: Duration = call.edge.settings().limits.completion_timeout;
    let ended = async move { follower.terminal(&awaited).await };
    let ended = tokio::select! {
        ended = call.edge.parts().io.call(deadline, ended) => ended.ok(),
        () = call.edge.patience_over() => None,
    };
    match ended {
        Some(Ok(event)) => answer::whole(heading, &event),
        Some(Err(StoreError::NotFound)) => Err(Problem::of(codes::SESSION_DELETED)),
        Some(Err(error)) => Err(error.into()),
        None => Err(unfinished(accepted)),
    }
}

/// Tells a client that waits no longer that its message is not lost.
fn unfinished(accepted: &Accepted) -> Problem {
    let detail = format!("the message `{}` is still being answered", accepted.event_id);
    Problem::new(codes::TIMED_OUT, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_one_session_per_tenant_and_subject() {
        let of = |tenant: &str, subject: &str, user: &str| Session::OfUser {
            tenant: TenantId(tenant.to_owned()),
            subject: subject.to_owned(),
            user: user.to_owned(),
        };
        assert_eq!(of("a", "s", "u").id(0), of("a", "s", "u").id(0));
        assert_ne!(of("a", "s", "u").id(0), of("b", "s", "u").id(0));
        assert_ne!(of("a", "s", "u").id(0), of("a", "t", "u").id(0));
        assert_ne!(of("a", "s", "u").id(0), of("a", "s", "u").id(1));
    }
}
