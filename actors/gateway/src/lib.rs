//! Admission and group commit of accepted messages.
