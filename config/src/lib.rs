//! The one validated configuration and the only reader of the environment.
