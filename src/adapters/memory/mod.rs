//! The memory service port, by vendor.
