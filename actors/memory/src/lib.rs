//! Unified memory: outbox relay, memory sync and replicator.
