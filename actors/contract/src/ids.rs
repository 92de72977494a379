//! Identifiers, and where new ones and the time come from.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_newtype! {
    /// A conversation between a subject and an agent; orders its turns.
    SessionId
}
uuid_newtype! {
    /// A durable event; unique in the store for ever, so that a repeated write is a no-op.
    EventId
}
uuid_newtype! {
    /// A turn: what answers the `n`th message of a session.
    TurnId
}
uuid_newtype! {
    /// One step of a turn; handed to a tool as its idempotency key.
    EffectId
}

impl TurnId {
    /// Names the turn that answers message `n` of `session`: UUIDv5, so any replica computes it.
    pub fn of(session: SessionId, n: u64) -> Self {
        Self(Uuid::new_v5(&session.0, format!("turn/{n}").as_bytes()))
    }
}

impl EffectId {
    /// Names part `index` of step `step` of a turn; equal for every repetition of that step.
    pub fn of(turn: TurnId, step: u32, index: u32) -> Self {
        Self(Uuid::new_v5(&turn.0, format!("step/{step}/{index}").as_bytes()))
    }
}

impl EventId {
    /// Names the one terminal event of a turn's `replay`th replay (0: the first run).
    pub fn terminal(turn: TurnId, replay: u32) -> Self {
        Self(Uuid::new_v5(&turn.0, format!("terminal/{replay}").as_bytes()))
    }

    /// Names the event that tells `what` (`start`, `result`) of a tool step.
    pub fn of_step(effect: EffectId, what: &str) -> Self {
        Self(Uuid::new_v5(&effect.0, what.as_bytes()))
    }
}

/// An isolated customer; every row belongs to one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(pub String);

impl TenantId {
    /// The tenant of callers that name none: `public`, as before.
    pub fn public() -> Self {
        Self("public".to_owned())
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A process that may hold leases; drawn anew at each start.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Owner(pub String);

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Where the wall-clock time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Returns the present time.
    fn now(&self) -> DateTime<Utc>;
}

/// Where new ids come from.
pub trait Ids: Send + Sync + fmt::Debug {
    /// Draws an id that nobody has drawn before.
    fn draw(&self) -> Uuid;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// Time-ordered random ids (UUIDv7, RFC 9562), which keep the indexes of a store compact.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomIds;

impl Ids for RandomIds {
    fn draw(&self) -> Uuid {
        Uuid::now_v7()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_turns_steps_and_events_are_stable_and_distinct() {
        let session = SessionId(Uuid::from_u128(7));
        let turn = TurnId::of(session, 1);
        assert_eq!(turn, TurnId::of(session, 1));
        assert_ne!(turn, TurnId::of(session, 2));
        let effect = EffectId::of(turn, 1, 0);
        assert_ne!(effect, EffectId::of(turn, 0, 1));
        assert_ne!(EventId::of_step(effect, "start"), EventId::of_step(effect, "result"));
        assert_ne!(EventId::terminal(turn, 0), EventId::terminal(turn, 1));
    }
}
