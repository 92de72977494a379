//! Why a turn ends without an answer: a stable code, and words that a person can act on.

use soma_contract::port::model::ModelError;

/// The code in `metadata.code` of an `assistant.error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// Too many attempts without progress.
    AttemptsSpent,
    /// The turn panicked too often.
    Panicked,
    /// The process died too often while it ran the turn alone.
    ProcessDied,
    /// What it waited for stayed out of reach.
    Unavailable,
    /// The model's endpoint refuses our key.
    ModelKeyRefused,
    /// The model's endpoint does not know the model.
    ModelUnknown,
    /// The model's endpoint refuses this prompt.
    ModelRefused,
    /// Too many calls of the model.
    StepCap,
    /// Too many calls of tools.
    ToolCallCap,
    /// Too much time of work.
    WorkCap,
    /// The tenant's tokens of the day are used.
    TokenCap,
    /// A bug of ours: the journal cannot be read, or the store refuses the data.
    Internal,
}

impl Code {
    /// Returns the code on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsSpent => "attempts_spent",
            Self::Panicked => "panicked",
            Self::ProcessDied => "process_died",
            Self::Unavailable => "unavailable",
            Self::ModelKeyRefused => "model_key_refused",
            Self::ModelUnknown => "model_unknown",
            Self::ModelRefused => "model_refused",
            Self::StepCap => "step_cap",
            Self::ToolCallCap => "tool_call_cap",
            Self::WorkCap => "work_cap",
            Self::TokenCap => "token_cap",
            Self::Internal => "internal",
        }
    }
}

/// Why a turn ends by failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// For programs.
    pub code: Code,
    /// For people.
    pub reason: String,
}

impl Failure {
    /// Builds a failure.
    pub fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// Returns how a turn ends over this error of the model; `None`: it waits and tries again.
    pub fn of_model(error: &ModelError) -> Option<Self> {
        let code = match error {
            ModelError::Unavailable { .. } | ModelError::Malformed(_) => return None,
            ModelError::KeyRefused(_) => Code::ModelKeyRefused,
            ModelError::NoSuchModel(_) => Code::ModelUnknown,
            ModelError::Refused(_) => Code::ModelRefused,
        };
        Some(Self::new(code, error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use soma_contract::{Classified, Kind};

    use super::*;

    #[test]
    fn exactly_the_passing_errors_of_the_model_are_waited_for() {
        let errors = [
            ModelError::Unavailable { reason: "503".to_owned(), retry_after: None },
            ModelError::KeyRefused("401".to_owned()),
            ModelError::NoSuchModel("gpt-0".to_owned()),
            ModelError::Refused("too long".to_owned()),
            ModelError::Malformed("no choices".to_owned()),
        ];
        for error in errors {
            let waits = Failure::of_model(&error).is_none();
            assert_eq!(waits, error.kind() == Kind::Retry, "{error}");
        }
    }
}
