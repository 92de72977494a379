//! What one turn may use: steps, calls, time and tokens.

use std::time::Duration;

use crate::failure::{Code, Failure};

/// The most that a turn may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caps {
    /// Calls of the model.
    pub model_steps: u32,
    /// Calls of tools.
    pub tool_calls: u32,
    /// Time of work, waiting for what is out of reach apart.
    pub work: Duration,
    /// Tokens of a tenant and day; 0: no limit.
    pub tokens_per_day: u64,
}

impl Default for Caps {
    fn default() -> Self {
        Self { model_steps: 25, tool_calls: 50, work: Duration::from_mins(10), tokens_per_day: 0 }
    }
}

/// What a turn has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Calls of the model.
    pub model_steps: u32,
    /// Calls of tools.
    pub tool_calls: u32,
    /// Time of work, over all claims.
    pub worked: Duration,
    /// Tokens of the tenant today, this turn included.
    pub tokens_today: u64,
}

impl Caps {
    /// Decides whether the turn may call the model once more.
    ///
    /// # Errors
    ///
    /// The cap that is reached.
    pub fn before_model(&self, spent: &Spent) -> Result<(), Failure> {
        self.before_wait(spent.worked)?;
        if spent.model_steps >= self.model_steps {
            let reason = format!("the turn took {} steps, as many as it may", spent.model_steps);
            return Err(Failure::new(Code::StepCap, reason));
        }
        if self.tokens_per_day > 0 && spent.tokens_today >= self.tokens_per_day {
            let reason = format!(
                "{} tokens were used today, of {} that may be",
                spent.tokens_today, self.tokens_per_day
            );
            return Err(Failure::new(Code::TokenCap, reason));
        }
        Ok(())
    }

    /// Decides whether the turn may make these calls of tools.
    ///
    /// # Errors
    ///
    /// The cap that they would pass.
    pub fn before_tools(&self, spent: &Spent, calls: usize) -> Result<(), Failure> {
        let wanted = u64::from(spent.tool_calls) + calls as u64;
        if wanted <= u64::from(self.tool_calls) {
            return Ok(());
        }
        let reason = format!(
            "the turn wants {wanted} calls of tools, of {} that it may make",
            self.tool_calls
        );
        Err(Failure::new(Code::ToolCallCap, reason))
    }

    /// Decides whether the turn may go on working.
    ///
    /// # Errors
    ///
    /// Its time is over.
    pub fn before_wait(&self, worked: Duration) -> Result<(), Failure> {
        if worked < self.work { Ok(()) } else { Err(self.out_of_time()) }
    }

    /// The failure of a turn whose time is over.
    pub fn out_of_time(&self) -> Failure {
        let seconds = self.work.as_secs();
        Failure::new(Code::WorkCap, format!("the turn worked {seconds} s, as long as it may"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(outcome: Result<(), Failure>) -> Option<Code> {
        outcome.err().map(|failure| failure.code)
    }

    #[test]
    fn each_cap_is_reached_exactly_at_its_value() {
        let caps = Caps { tokens_per_day: 100, ..Caps::default() };
        let just_below = Spent {
            model_steps: 24,
            tool_calls: 49,
            worked: Duration::from_millis(599_999),
            tokens_today: 99,
        };
        assert_eq!(code(caps.before_model(&just_below)), None);
        assert_eq!(code(caps.before_tools(&just_below, 1)), None);
        assert_eq!(code(caps.before_tools(&just_below, 2)), Some(Code::ToolCallCap));
        let steps = Spent { model_steps: 25, ..just_below };
        assert_eq!(code(caps.before_model(&steps)), Some(Code::StepCap));
        let worked = Spent { worked: Duration::from_mins(10), ..just_below };
        assert_eq!(code(caps.before_model(&worked)), Some(Code::WorkCap));
        let tokens = Spent { tokens_today: 100, ..just_below };
        assert_eq!(code(caps.before_model(&tokens)), Some(Code::TokenCap));
    }

    #[test]
    fn without_a_token_limit_tokens_do_not_count() {
        let spent = Spent { tokens_today: u64::MAX, ..Spent::default() };
        assert_eq!(code(Caps::default().before_model(&spent)), None);
    }
}
