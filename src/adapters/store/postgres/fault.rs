//! What goes wrong inside a transaction, what the port calls it, and what may be tried again.

use soma_contract::port::store::StoreError;

/// Why an operation stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The operation's own outcome: fenced, not found, refused.
    #[error(transparent)]
    Outcome(#[from] StoreError),
    /// The database's, before COMMIT was sent: nothing was changed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// COMMIT was sent and not answered.
    #[error("the commit was not answered: {0}")]
    Unanswered(sqlx::Error),
    /// The server said nothing for so long that it is given up, whatever it had been sent.
    #[error("the server does not answer")]
    Silent,
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::Outcome(StoreError::Refused(format!(
            "a row is not what this version writes: {error}"
        )))
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Outcome(error) => error,
            Fault::Unanswered(error) => Self::OutcomeUnknown(error.to_string()),
            Fault::Silent => Self::OutcomeUnknown("the server does not answer".to_owned()),
            Fault::Database(error) if is_of_the_data(&error) => Self::Refused(error.to_string()),
            Fault::Database(error) => Self::Unavailable(error.to_string()),
        }
    }
}

impl Fault {
    /// Returns whether the same call may succeed at once: somebody was in the way, or the connection
    /// had died before it was used.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Database(error) if is_crossed(error) || is_broken(error))
    }

    /// Returns whether a part of the requests alone may be to blame.
    pub(super) fn may_be_of_one(&self) -> bool {
        match self {
            Self::Outcome(_) => true,
            Self::Unanswered(_) | Self::Silent => false,
            Self::Database(error) => is_crossed(error) || is_locked(error) || is_of_the_data(error),
        }
    }

    /// Names what an answer to COMMIT means: refused, hence rolled back, or unknown.
    pub(super) fn of_commit(error: sqlx::Error) -> Self {
        match code(&error).as_deref() {
            // A server that shuts down may have committed before it said so.
            Some(code) if !code.starts_with("57") && !code.starts_with("08") => {
                Self::Database(error)
            }
            _ => Self::Unanswered(error),
        }
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    match error {
        sqlx::Error::Database(error) => error.code().map(std::borrow::Cow::into_owned),
        _ => None,
    }
}

/// Serialisation failure, deadlock, and the unique violation of two who wrote the same at the same
/// time: the next try reads what the other has written.
fn is_crossed(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("40001" | "40P01" | "23505"))
}

/// Somebody held a row for longer than one may wait, and may hold it for longer.
fn is_locked(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("55P03")
}

/// Returns whether the connection is gone, by itself or with the server.
fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        _ => matches!(code(error).as_deref(), Some("57P01" | "57P02" | "08006" | "08003")),
    }
}

/// Returns whether the server does not take connections now: it is away, starts, stops or is full.
pub(super) fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        _ => code(error).is_some_and(|code| code.starts_with("57P") || code == "53300"),
    }
}

/// Returns whether the same call would fail again: the data is to blame, not the server.
fn is_of_the_data(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::RowNotFound
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::Encode(_) => true,
        // Data exceptions, integrity violations, programme limits (a text too long to index).
        _ => code(error)
            .is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class))),
    }
}
