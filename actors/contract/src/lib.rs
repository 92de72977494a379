//! Messages, events, ids, error kinds and port traits that every service shares.
