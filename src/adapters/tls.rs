//! The one TLS implementation that every HTTP client of the process uses.

/// Makes ring the process's TLS implementation. Repeatable; the first call counts.
pub fn install() {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::trace!("tls is set up already");
    }
}
