//! Live: what only matters now. Deltas, the text so far, nudges and rate limits; losing it loses
//! nothing durable.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    event::Event,
    ids::{SessionId, TurnId},
    kind::{Classified, Kind},
};

/// Where a piece of text belongs: pieces of another epoch or step replace, of the same one follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextPosition {
    /// The turn.
    pub turn_id: TurnId,
    /// The epoch of the turn's owner.
    pub epoch: u64,
    /// The step that is being computed.
    pub step: u32,
    /// Bytes of the step's text before this piece.
    pub offset: u64,
}

/// What readers of a session hear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LiveEvent {
    /// The session's log has grown up to this `seq`: read it from the store.
    Appended {
        /// The newest place.
        seq: u64,
    },
    /// A piece of text. The adapter also keeps the text so far for [`Live::snapshot`].
    Delta {
        /// Where it belongs.
        at: TextPosition,
        /// The piece.
        text: String,
    },
    /// Forget this turn's text: a step is computed anew.
    Reset {
        /// Where the new text will begin.
        at: TextPosition,
    },
    /// Anything else that is not kept (thinking, waiting).
    Notice {
        /// The event, without `seq`.
        event: Box<Event>,
    },
}

/// The text so far of the step that is being computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Where the text begins (`offset` is 0).
    pub at: TextPosition,
    /// The text.
    pub text: String,
}

/// A hint to services of any replica; each may be lost, since all poll as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Nudge {
    /// A turn of this session may be claimable, or a step of it has settled.
    Session {
        /// The session.
        session_id: SessionId,
    },
    /// Somebody asked to cancel this running turn.
    Cancel {
        /// The session.
        session_id: SessionId,
        /// The turn.
        turn_id: TurnId,
    },
    /// Tool steps of this session were requested.
    Steps {
        /// The session.
        session_id: SessionId,
    },
}

/// What a rate limiter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Go on.
    Granted,
    /// Too fast; try again after this long.
    Limited(Duration),
}

/// The live port does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the live port is unavailable: {0}")]
pub struct LiveError(
    /// What the vendor said.
    pub String,
);

impl Classified for LiveError {
    fn kind(&self) -> Kind {
        Kind::Retry
    }
}

/// Fan-out to readers, hints to services, shared rate limits.
#[async_trait]
pub trait Live: Send + Sync + fmt::Debug {
    /// Tells the readers of a session, best effort, in order per publisher.
    async fn publish(&self, session_id: SessionId, event: LiveEvent);

    /// Hears what is told from now on.
    ///
    /// # Errors
    ///
    /// The port does not answer; readers then poll the store.
    async fn listen(&self, session_id: SessionId) -> Result<Box<dyn Listener>, LiveError>;

    /// Returns the text so far, if a step is being computed.
    ///
    /// # Errors
    ///
    /// The port does not answer.
    async fn snapshot(&self, session_id: SessionId) -> Result<Option<Snapshot>, LiveError>;

    /// Forgets the text so far: the step is journaled or the turn has ended.
    async fn clear(&self, session_id: SessionId);

    /// Hints to every replica, this one included; best effort.
    async fn nudge(&self, nudge: Nudge);

    /// Hears hints from now on.
    async fn nudges(&self) -> Box<dyn NudgeListener>;

    /// Takes one token from a bucket that fills by `per_second` up to `burst`.
    ///
    /// # Errors
    ///
    /// The port does not answer; the caller then decides locally.
    async fn take(&self, bucket: &str, per_second: u32, burst: u32)
    -> Result<Admission, LiveError>;

    /// Asks for news, for the health report.
    ///
    /// # Errors
    ///
    /// The port does not answer.
    async fn ping(&self) -> Result<(), LiveError>;
}

/// What a reader hears next.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// The next event.
    Event(LiveEvent),
    /// The reader was too slow and missed some: read the store and the snapshot again.
    Lagged,
    /// The port is gone: listen again, poll the store meanwhile.
    Closed,
}

/// One reader's ear; dropping it ends the subscription. Bounded.
#[async_trait]
pub trait Listener: Send + fmt::Debug {
    /// Waits for the next event. Cancel-safe.
    async fn next(&mut self) -> Heard;
}

/// One service's ear for hints.
#[async_trait]
pub trait NudgeListener: Send + fmt::Debug {
    /// Waits for the next hint; `None`: some were missed, look at everything. Cancel-safe.
    async fn next(&mut self) -> Option<Nudge>;
}
