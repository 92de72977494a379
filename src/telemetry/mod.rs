//! Traces, metrics, logs and the panic hook.
