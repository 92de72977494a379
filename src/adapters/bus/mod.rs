//! The bus port, by vendor.
