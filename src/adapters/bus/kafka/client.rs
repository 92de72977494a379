//! What librdkafka says while it works: log lines, not errors of ours.

use rdkafka::{ClientContext, config::RDKafkaLogLevel, error::KafkaError};

/// Sends the library's lines to the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chatter;

impl ClientContext for Chatter {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        complain(&error, reason);
    }
}

/// Logs a line. Lost connections are told by whoever needed them, once; here they would be told
/// every second by every client.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    let is_connection = matches!(facility, "FAIL" | "ERROR");
    if (level as i32) <= (RDKafkaLogLevel::Error as i32) && !is_connection {
        tracing::warn!(facility, "librdkafka: {line}");
    } else {
        tracing::debug!(facility, "librdkafka: {line}");
    }
}

/// Logs an error of a client that fails no call by itself.
pub(super) fn complain(error: &KafkaError, reason: &str) {
    tracing::debug!(%error, reason, "a Kafka client is in trouble");
}
