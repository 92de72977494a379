//! The registry of specs, its checks, and the plan that follows from it.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

use serde::Serialize;

use crate::spec::Entry;

/// A declarative list of services. Nothing in it runs before a tree of it is launched.
#[derive(Debug, Default)]
pub struct Registry {
    pub(crate) entries: Vec<Entry>,
    /// Services that are known, but live in another process.
    elsewhere: BTreeSet<String>,
}

/// Why a registry cannot be launched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Two services have one name.
    #[error("service `{0}` is declared twice")]
    Duplicate(String),
    /// A service needs one that nobody declared.
    #[error("service `{service}` needs `{needs}`, which is not declared")]
    Unknown {
        /// The service.
        service: String,
        /// What it needs.
        needs: String,
    },
    /// A subset names a service that nobody declared.
    #[error("no service is called `{0}`")]
    NoSuchService(String),
    /// Services need each other in a circle.
    #[error("services need each other in a circle: {}", .0.join(" → "))]
    Cycle(Vec<String>),
}

/// The order of start: level after level, a level in parallel. The stop is the exact reverse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Services by level, in the order of their declaration.
    pub levels: Vec<Vec<PlannedService>>,
}

/// A service in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedService {
    /// Its name.
    pub name: String,
    /// Whether the system halts when it dies.
    pub critical: bool,
    /// What must be ready before it, in this process.
    pub needs: Vec<String>,
    /// What it needs of other processes.
    pub external: Vec<String>,
    /// The plan of its children, if it is a supervisor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children: Option<Plan>,
}

impl Registry {
    /// Makes a registry of the given specs.
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        Self { entries: entries.into_iter().collect(), elsewhere: BTreeSet::new() }
    }

    /// Adds a spec.
    #[must_use]
    pub fn with(mut self, spec: impl Into<Entry>) -> Self {
        self.entries.push(spec.into());
        self
    }

    /// Keeps only the named services. What they need of the others becomes external: it is taken
    /// to run in another process.
    ///
    /// # Errors
    /// A name that nobody declared.
    pub fn only<N: AsRef<str>>(mut self, names: &[N]) -> Result<Self, RegistryError> {
        let chosen: BTreeSet<&str> = names.iter().map(AsRef::as_ref).collect();
        for name in &chosen {
            if !self.entries.iter().any(|entry| *entry.cell.name == **name) {
                return Err(RegistryError::NoSuchService((*name).to_owned()));
            }
        }
        let (kept, dropped): (Vec<_>, Vec<_>) =
            self.entries.into_iter().partition(|entry| chosen.contains(&*entry.cell.name));
        self.elsewhere.extend(dropped.iter().map(|entry| entry.cell.name.to_string()));
        Ok(Self { entries: kept, elsewhere: self.elsewhere })
    }

    /// Checks the registry and returns the plan that follows from it.
    ///
    /// # Errors
    /// The first fault: a name declared twice, one that nobody declared, or a circle.
    pub fn check(&self) -> Result<Plan, RegistryError> {
        let mut names = BTreeSet::new();
        self.check_names(&mut names)?;
        self.plan()
    }

    /// Names are unique over the whole tree, so that a service is found by its name alone.
    fn check_names(&self, names: &mut BTreeSet<String>) -> Result<(), RegistryError> {
        for entry in &self.entries {
            if !names.insert(entry.cell.name.to_string()) {
                return Err(RegistryError::Duplicate(entry.cell.name.to_string()));
            }
            if let Some(children) = &entry.children {
                children.registry.check_names(names)?;
            }
        }
        Ok(())
    }

    fn plan(&self) -> Result<Plan, RegistryError> {
        let levels = self.levels()?;
        let depth = levels.iter().max().map_or(0, |deepest| deepest + 1);
        let mut plan = Plan { levels: vec![Vec::new(); depth] };
        for (entry, level) in self.entries.iter().zip(levels) {
            let (external, needs) =
                entry.needs.iter().cloned().partition(|name| self.elsewhere.contains(name));
            let planned = PlannedService {
                name: entry.cell.name.to_string(),
                critical: entry.terms.critical,
                needs,
                external,
                children: entry.children.as_ref().map(|own| own.registry.plan()).transpose()?,
            };
            if let Some(services) = plan.levels.get_mut(level) {
                services.push(planned);
            }
        }
        Ok(plan)
    }

    /// Returns the level of each entry: one more than the highest of what it needs.
    pub(crate) fn levels(&self) -> Result<Vec<usize>, RegistryError> {
        let index: HashMap<&str, usize> = self
            .entries
            .iter()
            .enumerate()
            .map(|(place, entry)| (&*entry.cell.name, place))
            .collect();
        let mut levels = vec![Level::Unseen; self.entries.len()];
        for place in 0..self.entries.len() {
            self.descend(place, &index, &mut levels, &mut Vec::new())?;
        }
        Ok(levels.into_iter().map(Level::known).collect())
    }

    fn descend(
        &self,
        place: usize,
        index: &HashMap<&str, usize>,
        levels: &mut [Level],
        path: &mut Vec<String>,
    ) -> Result<usize, RegistryError> {
        let Some(entry) = self.entries.get(place) else { return Ok(0) };
        let name = entry.cell.name.to_string();
        match levels.get(place) {
            Some(Level::Known(level)) => return Ok(*level),
            Some(Level::Open) => {
                path.push(name.clone());
                let begin = path.iter().position(|step| *step == name).unwrap_or(0);
                return Err(RegistryError::Cycle(path.split_off(begin)));
            }
            _ => {}
        }
        set(levels, place, Level::Open);
        path.push(name.clone());
        let mut level = 0;
        for needs in &entry.needs {
            if self.elsewhere.contains(needs) {
                continue;
            }
            let Some(needed) = index.get(needs.as_str()) else {
                return Err(RegistryError::Unknown { service: name, needs: needs.clone() });
            };
            level = level.max(self.descend(*needed, index, levels, path)? + 1);
        }
        path.pop();
        set(levels, place, Level::Known(level));
        Ok(level)
    }
}

#[derive(Debug, Clone, Copy)]
enum Level {
    Unseen,
    /// On the path that is being followed: meeting it again is a circle.
    Open,
    Known(usize),
}

impl Level {
    const fn known(self) -> usize {
        match self {
            Self::Known(level) => level,
            Self::Unseen | Self::Open => 0,
        }
    }
}

fn set(levels: &mut [Level], place: usize, level: Level) {
    if let Some(slot) = levels.get_mut(place) {
        *slot = level;
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.print(formatter, 0)
    }
}

impl Plan {
    fn print(&self, formatter: &mut fmt::Formatter<'_>, indent: usize) -> fmt::Result {
        for (level, services) in self.levels.iter().enumerate() {
            for service in services {
                let pad = "  ".repeat(indent);
                write!(formatter, "{pad}{}. {}", level + 1, service.name)?;
                if service.critical {
                    write!(formatter, " (critical)")?;
                }
                if !service.needs.is_empty() {
                    write!(formatter, " after {}", service.needs.join(", "))?;
                }
                if !service.external.is_empty() {
                    write!(formatter, ", external: {}", service.external.join(", "))?;
                }
                writeln!(formatter)?;
                if let Some(children) = &service.children {
                    children.print(formatter, indent + 1)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Service, Spec};

    struct Nothing;

    impl Service for Nothing {}

    fn spec(name: &str, needs: &[&str]) -> Entry {
        Spec::new(name, || Nothing).needs(needs).into()
    }

    fn house() -> Registry {
        let children = Registry::new([spec("outbox-sync", &[]), spec("memory-sync", &[])]);
        Registry::new([
            spec("gateway", &["conversation-worker", "tool-executor"]),
            spec("tool-executor", &["unified-memory"]),
            spec("conversation-worker", &["unified-memory", "tool-executor"]),
            Spec::supervisor("unified-memory", children).critical(true).into(),
            spec("housekeeping", &[]),
        ])
    }

    #[test]
    fn the_plan_is_printable_and_always_the_same() {
        let plan = house().check().unwrap();
        assert_eq!(
            plan.to_string(),
            "1. unified-memory (critical)\n\
             \x20 1. outbox-sync\n\
             \x20 1. memory-sync\n\
             1. housekeeping\n\
             2. tool-executor after unified-memory\n\
             3. conversation-worker after unified-memory, tool-executor\n\
             4. gateway after conversation-worker, tool-executor\n"
        );
        assert_eq!(plan, house().check().unwrap());
    }

    #[test]
    fn a_circle_is_printed() {
        let registry = Registry::new([spec("a", &["b"]), spec("b", &["c"]), spec("c", &["b"])]);
        let error = registry.check().unwrap_err();
        assert_eq!(error.to_string(), "services need each other in a circle: b → c → b");
    }

    #[test]
    fn names_are_unique_over_the_whole_tree() {
        let children = Registry::new([spec("gateway", &[])]);
        let registry =
            Registry::new([spec("gateway", &[]), Spec::supervisor("memory", children).into()]);
        assert_eq!(registry.check().unwrap_err(), RegistryError::Duplicate("gateway".to_owned()));
    }

    #[test]
    fn a_need_that_nobody_declared_is_a_fault() {
        let error = Registry::new([spec("gateway", &["memroy"])]).check().unwrap_err();
        assert_eq!(error.to_string(), "service `gateway` needs `memroy`, which is not declared");
    }

    #[test]
    fn what_a_subset_needs_of_others_is_external() {
        let plan = house().only(&["gateway", "tool-executor"]).unwrap().check().unwrap();
        assert_eq!(
            plan.to_string(),
            "1. tool-executor, external: unified-memory\n\
             2. gateway after tool-executor, external: conversation-worker\n"
        );
        let error = house().only(&["gatway"]).unwrap_err();
        assert_eq!(error, RegistryError::NoSuchService("gatway".to_owned()));
    }
}
