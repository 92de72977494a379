//! Log lines on standard output: JSON for machines, text for people.

use std::io::IsTerminal;

use tracing_subscriber::{
    EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One JSON object a line.
    Json,
    /// Text for people, coloured on a terminal.
    Text,
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error(
        "`{filter}` is no log filter: {reason} (try `info`, or `info,soma_conversation=debug`)"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something else has set up logging for this process.
    #[error("logging is set up already")]
    Installed(#[source] tracing_subscriber::util::TryInitError),
    /// The subscriber is gone.
    #[error("logging has ended")]
    Ended(#[source] reload::Error),
}

/// Changes the level of a process's log at run time.
#[derive(Debug, Clone)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogControl {
    /// Replaces the filter, such as `debug` or `info,soma_memory=trace`, from the next line on.
    ///
    /// # Errors
    ///
    /// The filter is not one; the one before stays.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        self.filter.reload(parse(filter)?).map_err(LogError::Ended)
    }
}

/// Sends every event of the process to standard output from now on.
///
/// Text from outside cannot forge lines: JSON escapes control characters, and the text formatter
/// escapes them too.
///
/// # Errors
///
/// The filter is not one, or logging was set up before.
pub fn install(filter: &str, shape: Shape) -> Result<LogControl, LogError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let lines = fmt::layer().with_target(true);
    let registry = tracing_subscriber::registry().with(filter);
    match shape {
        Shape::Json => {
            registry.with(lines.json().flatten_event(true).with_span_list(false)).try_init()
        }
        Shape::Text => {
            let colour = std::io::stdout().is_terminal();
            registry.with(lines.compact().with_ansi(colour)).try_init()
        }
    }
    .map_err(LogError::Installed)?;
    Ok(LogControl { filter: handle })
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(filter)
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let error = parse("soma=loud").unwrap_err().to_string();
        assert!(error.contains("`soma=loud`"), "{error}");
    }
}
