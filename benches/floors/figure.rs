//! A figure beside its limit, and what is made of it.

use std::fmt;

use serde::Serialize;

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Better {
    /// More is.
    Higher,
    /// Less is.
    Lower,
}

/// What is judged, with what it has to reach.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    /// The row's name, by which it can be asked for.
    pub(crate) row: &'static str,
    /// What was measured, in words.
    pub(crate) what: &'static str,
    /// The product's figure, as told.
    pub(crate) measured: String,
    /// The limit's figure in the same run, as told.
    pub(crate) limit: String,
    /// What is compared with floor and aim, and its unit.
    pub(crate) score: f64,
    /// The score's unit; empty for a ratio.
    pub(crate) unit: &'static str,
    /// Below (or above) this the work is not done.
    pub(crate) floor: f64,
    /// What it should be.
    pub(crate) aim: f64,
    /// Which way is better.
    pub(crate) better: Better,
    /// What went wrong on the way; any fault misses the floor.
    pub(crate) faults: u64,
}

/// What is made of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// Worse than the floor, or with faults.
    Missed,
    /// Between floor and aim.
    Floor,
    /// As good as the aim.
    Aim,
}

impl Figure {
    /// Judges.
    pub(crate) fn verdict(&self) -> Verdict {
        let reaches = |bar: f64| match self.better {
            Better::Higher => self.score >= bar,
            Better::Lower => self.score <= bar,
        };
        match (self.faults, reaches(self.floor), reaches(self.aim)) {
            (0, _, true) => Verdict::Aim,
            (0, true, _) => Verdict::Floor,
            _ => Verdict::Missed,
        }
    }

    /// Returns the cells of its line in the table.
    pub(crate) fn cells(&self) -> [String; 8] {
        let bar = |bar: f64| {
            let sign = if self.better == Better::Higher { "≥" } else { "≤" };
            format!("{sign} {bar}{}", self.unit)
        };
        [
            self.row.to_owned(),
            self.what.to_owned(),
            self.measured.clone(),
            self.limit.clone(),
            format!("{:.3}{}", self.score, self.unit),
            bar(self.floor),
            bar(self.aim),
            self.verdict().to_string(),
        ]
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Missed => "missed",
            Self::Floor => "floor",
            Self::Aim => "aim",
        })
    }
}
