//! The services of the platform, declared once: names, order and which of them are critical.

use std::time::Duration;

use soma_config::Deployment;
use soma_runtime::{Entry, Plan, Registry, RegistryError, Service, Spec};

/// What is declared of a service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Declared {
    /// The name that operators know.
    pub(super) name: &'static str,
    /// Whether the system halts when it dies.
    critical: bool,
    /// The services that must be ready first.
    needs: &'static [&'static str],
    /// How long its drain may take.
    drain: Duration,
    /// What it supervises.
    children: &'static [&'static str],
}

/// Supervises everything that moves data.
pub(super) const UNIFIED_MEMORY: Declared = Declared {
    name: "unified-memory",
    critical: true,
    needs: &[],
    drain: Duration::from_secs(10),
    children: &["outbox-sync", "memory-sync", "memory-replicator"],
};
/// Runs tools.
pub(super) const TOOL_EXECUTOR: Declared = Declared {
    name: "tool-executor",
    critical: true,
    needs: &["unified-memory"],
    drain: Duration::from_secs(10),
    children: &[],
};
/// Runs turns.
pub(super) const CONVERSATION_WORKER: Declared = Declared {
    name: "conversation-worker",
    critical: true,
    needs: &["unified-memory", "tool-executor"],
    drain: Duration::from_secs(25),
    children: &[],
};
/// Admits messages.
pub(super) const GATEWAY: Declared = Declared {
    name: "gateway",
    critical: true,
    needs: &["unified-memory", "tool-executor", "conversation-worker"],
    drain: Duration::from_secs(10),
    children: &[],
};
/// Cleans up and measures.
pub(super) const HOUSEKEEPING: Declared = Declared {
    name: "housekeeping",
    critical: false,
    needs: &[],
    drain: Duration::from_secs(5),
    children: &[],
};

const ALL: [Declared; 5] =
    [UNIFIED_MEMORY, TOOL_EXECUTOR, CONVERSATION_WORKER, GATEWAY, HOUSEKEEPING];

impl Declared {
    /// Gives a spec what is declared of its service.
    pub(super) fn of<S: Service>(self, spec: Spec<S>) -> Spec<S> {
        spec.critical(self.critical).needs(self.needs).stop_deadline(self.drain)
    }
}

/// Returns the plan of a process with this configuration, from the declarations alone.
///
/// # Errors
///
/// The declarations contradict each other.
pub(super) fn plan(deployment: &Deployment) -> Result<Plan, RegistryError> {
    let entries = ALL.iter().map(|declared| {
        let children = declared.children.iter().map(|name| Spec::new(*name, || Outline).into());
        if declared.children.is_empty() {
            Entry::from(declared.of(Spec::new(declared.name, || Outline)))
        } else {
            declared.of(Spec::supervisor(declared.name, Registry::new(children))).into()
        }
    });
    chosen(Registry::new(entries), deployment)?.check()
}

/// Leaves the services that this process runs; the others become external.
///
/// # Errors
///
/// An unknown name.
pub(super) fn chosen(
    registry: Registry,
    deployment: &Deployment,
) -> Result<Registry, RegistryError> {
    match &deployment.services {
        Some(names) => registry.only(names),
        None => Ok(registry),
    }
}

/// Stands for a service in a plan that is only printed.
struct Outline;

impl Service for Outline {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_starts_from_the_inside_out() {
        let plan = plan(&Deployment::default()).unwrap();
        let levels: Vec<Vec<_>> = plan
            .levels
            .iter()
            .map(|level| level.iter().map(|service| service.name.as_str()).collect())
            .collect();
        assert_eq!(
            levels,
            [
                vec!["unified-memory", "housekeeping"],
                vec!["tool-executor"],
                vec!["conversation-worker"],
                vec!["gateway"],
            ]
        );
    }

    #[test]
    fn the_configuration_knows_the_same_services() {
        let mut names = ALL.map(|declared| declared.name);
        let mut known = soma_config::SERVICES;
        names.sort_unstable();
        known.sort_unstable();
        assert_eq!(names, known);
    }
}
