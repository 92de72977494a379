//! The servers that `make up` starts for the tests.

/// The address in this environment variable, or the one that `make up` uses.
#[expect(clippy::disallowed_methods, reason = "the addresses of test servers are no configuration")]
pub(super) fn address(variable: &str, usual: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_unset| usual.to_owned())
}
