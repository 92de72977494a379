//! A whole turn without durability: what parsing, numbering, answering and serialising cost.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use soma_contract::{
    EventId, SessionId, TurnId,
    event::{Event, EventType, Role},
};
use uuid::Uuid;

const ANSWER: &str = "The keeper trims the lamp, winds the clockwork and writes the weather into \
    the log, as on every other night.";

/// The log of every session, in memory.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<SessionId, Vec<Event>>>);

/// What is read of a message.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    session_id: SessionId,
    message: String,
}

/// `POST /v1/session/message?wait=…`.
pub(super) async fn message(
    sessions: web::Data<Sessions>,
    body: web::Json<Message>,
) -> HttpResponse {
    let Message { session_id, message } = body.into_inner();
    let mut user = Event::new(EventId(Uuid::now_v7()), session_id, Role::User, EventType::User);
    user.message = message;
    HttpResponse::Ok().json(sessions.turn(user))
}

impl Sessions {
    /// Appends a user's message and its answer; returns the answer.
    fn turn(&self, mut user: Event) -> Event {
        let session = user.session_id;
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let log = sessions.entry(session).or_default();
        let seq = log.len() as u64;
        let (n, turn) = (seq / 2 + 1, TurnId::of(session, seq / 2 + 1));
        (user.n, user.turn_id, user.seq) = (Some(n), Some(turn), Some(seq + 1));
        let id = EventId::terminal(turn, 0);
        let mut answer = Event::new(id, session, Role::Assistant, EventType::Final);
        answer.message.push_str(ANSWER);
        (answer.n, answer.turn_id, answer.seq) = (Some(n), Some(turn), Some(seq + 2));
        log.push(user);
        log.push(answer.clone());
        answer
    }
}
