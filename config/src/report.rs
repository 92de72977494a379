//! What is in effect and where each value came from.

use std::fmt;

use serde::Serialize;

use crate::{
    key::Key,
    provenance::{Layer, Provenance},
};

/// Every key with its value in effect, in the order of the sections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Report {
    /// One row for each key.
    pub rows: Vec<Row>,
}

/// One key with its value in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The variable.
    pub name: &'static str,
    /// The section it belongs to.
    pub section: &'static str,
    /// The value in effect, secrets masked; `None` if there is none.
    pub value: Option<String>,
    /// Where the value came from.
    pub origin: Provenance,
}

impl Row {
    pub(crate) fn new(key: &Key, value: Option<String>, origin: Option<&Provenance>) -> Self {
        let origin = origin.cloned().unwrap_or_else(|| Provenance::of(Layer::Default));
        Self { name: key.name, section: key.section, value, origin }
    }

    fn shown(&self) -> &str {
        self.value.as_deref().unwrap_or("-")
    }
}

impl fmt::Display for Report {
    /// A table of three columns, sections apart.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |cell: fn(&Row) -> &str| {
            self.rows.iter().map(|row| cell(row).chars().count()).max().unwrap_or_default()
        };
        let names = width(|row| row.name);
        let values = width(Row::shown).min(60);
        let mut section = "";
        for row in &self.rows {
            if row.section != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                writeln!(formatter, "{gap}{}", row.section)?;
                section = row.section;
            }
            let (name, value, origin) = (row.name, row.shown(), &row.origin);
            writeln!(formatter, "  {name:<names$}  {value:<values$}  {origin}")?;
        }
        Ok(())
    }
}
