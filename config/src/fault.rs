//! What is wrong with a configuration, all of it at once.

use std::fmt;

use crate::{key, provenance::Provenance};

/// One thing that keeps the process from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// The variable (or file) at fault.
    pub name: String,
    /// Its value as it may be shown; `None` if it has none.
    pub value: Option<String>,
    /// Where the value came from.
    pub origin: Option<Provenance>,
    /// What is wrong, read after the name and value.
    pub reason: String,
    /// What to do about it.
    pub way_out: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.name)?;
        if let Some(value) = &self.value {
            write!(formatter, "=`{value}`")?;
        }
        if let Some(origin) = &self.origin {
            write!(formatter, " ({origin})")?;
        }
        write!(formatter, " {}; {}", self.reason, self.way_out)
    }
}

/// Everything that keeps the process from starting, and what else was noticed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigFaults {
    /// The faults, those of one variable together, in the order of the keys.
    pub faults: Vec<ConfigFault>,
    /// What was noticed besides.
    pub warnings: Vec<Warning>,
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.faults.len() {
            1 => write!(formatter, "the configuration has a fault:")?,
            faults => write!(formatter, "the configuration has {faults} faults:")?,
        }
        for fault in &self.faults {
            write!(formatter, "\n  {fault}")?;
        }
        Ok(())
    }
}

/// Something odd that does not keep the process from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The variable it is about.
    pub name: String,
    /// What is odd, read after the name, and what to do.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.name, self.message)
    }
}

/// Collects faults and warnings while the configuration is read.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    faults: Vec<ConfigFault>,
    warnings: Vec<Warning>,
}

impl Findings {
    pub(crate) fn fault(&mut self, fault: ConfigFault) {
        self.faults.push(fault);
    }

    /// Notes a fault of which there is no value to show.
    pub(crate) fn unusable(
        &mut self,
        name: impl Into<String>,
        origin: Provenance,
        reason: impl Into<String>,
        way_out: impl Into<String>,
    ) {
        self.fault(ConfigFault {
            name: name.into(),
            value: None,
            origin: Some(origin),
            reason: reason.into(),
            way_out: way_out.into(),
        });
    }

    pub(crate) fn warn(&mut self, name: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Warning { name: name.into(), message: message.into() });
    }

    /// Whether a fault was noted for this key, by whatever name its value was given.
    pub(crate) fn is_faulty(&self, key: &str) -> bool {
        self.faults.iter().any(|fault| fault.name == key)
    }

    /// The warnings, or every fault.
    pub(crate) fn conclude(mut self) -> Result<Vec<Warning>, ConfigFaults> {
        if self.faults.is_empty() {
            return Ok(self.warnings);
        }
        let place = |name: &str| key::keys().iter().position(|key| key.name == name);
        self.faults.sort_by_key(|fault| place(&fault.name).unwrap_or(usize::MAX));
        Err(ConfigFaults { faults: self.faults, warnings: self.warnings })
    }
}
