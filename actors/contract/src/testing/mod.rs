//! Fakes of the ports, and the one test suite that every adapter of a port passes.
