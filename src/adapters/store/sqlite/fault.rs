//! What goes wrong inside a write or read, and what the port calls it.

use soma_contract::port::store::StoreError;

/// Why an operation stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The operation's own outcome: fenced, not found, refused.
    #[error(transparent)]
    Outcome(#[from] StoreError),
    /// The database's.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
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
            Fault::Database(error) if is_of_the_data(&error) => Self::Refused(error.to_string()),
            Fault::Database(error) => Self::Unavailable(error.to_string()),
        }
    }
}

/// Returns whether the same call would fail again: the data is to blame, not the disk.
fn is_of_the_data(error: &sqlx::Error) -> bool {
    /// Primary result codes: `SQLITE_ERROR`, `TOOBIG`, `CONSTRAINT`, `MISMATCH`, `RANGE`.
    const CODES: [i32; 5] = [1, 18, 19, 20, 25];
    match error {
        sqlx::Error::Database(error) => error
            .code()
            .and_then(|code| code.parse::<i32>().ok())
            .is_some_and(|code| CODES.contains(&(code & 0xff))),
        sqlx::Error::RowNotFound
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::Encode(_) => true,
        _ => false,
    }
}
