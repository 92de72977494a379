//! How others in this process tell the worker where to look: at once, from any thread.

use std::sync::{Arc, Mutex, PoisonError};

use soma_contract::SessionId;
use tokio::sync::Notify;

/// Sessions that wait to be looked at while the worker is between two incarnations; what is beyond,
/// the poll finds.
const MAX_WAITING: usize = 65_536;

/// Tells the worker which sessions may have a claimable turn.
///
/// It is not a message: whoever has committed does not wait, is never refused, and need not know
/// whether the worker is just being restarted. One handle serves all incarnations.
#[derive(Debug, Clone, Default)]
pub struct Doorbell(Arc<Bell>);

#[derive(Debug, Default)]
struct Bell {
    waiting: Mutex<Vec<SessionId>>,
    rung: Notify,
}

impl Doorbell {
    /// Builds a bell that nobody has rung.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that these sessions may have a claimable turn.
    pub fn ring(&self, sessions: impl IntoIterator<Item = SessionId>) {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_WAITING.saturating_sub(waiting.len());
        waiting.extend(sessions.into_iter().take(room));
        drop(waiting);
        self.0.rung.notify_one();
    }

    /// Waits for a ring and returns the sessions since the last one.
    pub(crate) async fn rung(&self) -> Vec<SessionId> {
        self.0.rung.notified().await;
        std::mem::take(&mut *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use uuid::Uuid;

    use super::*;

    fn session(number: u128) -> SessionId {
        SessionId(Uuid::from_u128(number))
    }

    #[test]
    fn rings_before_anybody_listens_are_heard() {
        let bell = Doorbell::new();
        bell.ring([session(1), session(2)]);
        bell.ring([session(3)]);
        assert_eq!(bell.rung().now_or_never(), Some(vec![session(1), session(2), session(3)]));
        assert_eq!(bell.rung().now_or_never(), None);
    }

    #[test]
    fn what_waits_is_bounded() {
        let bell = Doorbell::new();
        for _ in 0..3 {
            bell.ring((0..40_000).map(session));
        }
        assert_eq!(bell.rung().now_or_never().map(|waiting| waiting.len()), Some(MAX_WAITING));
    }
}
