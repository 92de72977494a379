//! The HTTP edge: one file per resource, one error-to-status mapping.
