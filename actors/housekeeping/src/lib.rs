//! Retention, backlog and dead-letter depth, old-snapshot alarm.
