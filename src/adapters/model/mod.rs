//! The model port, by vendor.
