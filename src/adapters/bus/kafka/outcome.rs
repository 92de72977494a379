//! What follows from the library's errors.

use rdkafka::types::RDKafkaErrorCode;
use soma_contract::port::bus::Delivery;

/// What became of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The brokers have it.
    Delivered,
    /// They do not take it, or do not take the batch that it travelled in.
    Unfit(RDKafkaErrorCode),
    /// They may or may not have it.
    Failed(RDKafkaErrorCode),
}

impl Outcome {
    pub(super) const fn of(error: RDKafkaErrorCode) -> Self {
        match error {
            RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::InvalidRecord => Self::Unfit(error),
            _ => Self::Failed(error),
        }
    }

    /// Returns what the relay is told. Only of a record that travelled alone is it sure that it is
    /// the one that is not fit; the others go again, alone.
    pub(super) fn delivery(&self, travelled: Travelled) -> Delivery {
        match (self, travelled) {
            (Self::Delivered, _) => Delivery::Delivered,
            (Self::Unfit(error), Travelled::Alone) => Delivery::Refused(error.to_string()),
            (Self::Unfit(error), Travelled::InBatch) => {
                Delivery::Failed(format!("it goes again, alone: {error}"))
            }
            (Self::Failed(error), _) => Delivery::Failed(error.to_string()),
        }
    }
}

/// How a record went to the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Travelled {
    /// Perhaps with others, that share its fate.
    InBatch,
    /// By itself.
    Alone,
}

/// Reports on rows of which none was written.
pub(super) fn all_failed(rows: usize, reason: &str) -> Vec<Delivery> {
    vec![Delivery::Failed(reason.to_owned()); rows]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_record_that_travelled_alone_is_refused() {
        let outcome = Outcome::of(RDKafkaErrorCode::MessageSizeTooLarge);
        assert!(matches!(outcome.delivery(Travelled::Alone), Delivery::Refused(_)));
        assert!(matches!(outcome.delivery(Travelled::InBatch), Delivery::Failed(_)));
    }

    #[test]
    fn what_may_pass_is_never_refused() {
        for error in [
            RDKafkaErrorCode::MessageTimedOut,
            RDKafkaErrorCode::PurgeInflight,
            RDKafkaErrorCode::TopicAuthorizationFailed,
            RDKafkaErrorCode::UnknownTopicOrPartition,
            RDKafkaErrorCode::Fatal,
        ] {
            let delivery = Outcome::of(error).delivery(Travelled::Alone);
            assert!(matches!(delivery, Delivery::Failed(_)), "{error}");
        }
    }
}
