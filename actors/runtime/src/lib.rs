//! Supervised actix services: orchestrator, registry, restarts, links, watchdog.
