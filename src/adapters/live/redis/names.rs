//! What keys and channels are called. All begin with the prefix, so that systems can share a server.

use soma_contract::SessionId;
use uuid::Uuid;

/// The names of one system.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    /// Names that begin with this.
    pub(super) const fn new(prefix: String) -> Self {
        Self { prefix }
    }

    /// The channel on which the readers of a session hear.
    pub(super) fn room(&self, session_id: SessionId) -> String {
        format!("{}live:{session_id}", self.prefix)
    }

    /// The session whose readers hear on this channel.
    pub(super) fn session_of(&self, channel: &str) -> Option<SessionId> {
        let id = channel.strip_prefix(&self.prefix)?.strip_prefix("live:")?;
        Uuid::try_parse(id).ok().map(SessionId)
    }

    /// The channel on which services hear hints.
    pub(super) fn hints(&self) -> String {
        format!("{}hints", self.prefix)
    }

    /// The key of a session's text so far.
    pub(super) fn text(&self, session_id: SessionId) -> String {
        format!("{}text:{session_id}", self.prefix)
    }

    /// The key of a rate limit.
    pub(super) fn bucket(&self, bucket: &str) -> String {
        format!("{}bucket:{bucket}", self.prefix)
    }

    /// The key that is written to see whether the server takes writes.
    pub(super) fn probe(&self) -> String {
        format!("{}probe", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_names_its_session_and_its_system() {
        let (names, others) = (Names::new("soma:".into()), Names::new("other:".into()));
        let session_id = SessionId(Uuid::from_u128(7));
        assert_eq!(names.session_of(&names.room(session_id)), Some(session_id));
        assert_eq!(names.session_of(&others.room(session_id)), None);
        assert_eq!(names.session_of(&names.hints()), None);
        assert_eq!(names.session_of("soma:live:nobody"), None);
    }
}
