//! The figures as a table for people and as a file for programs.

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::figure::Figure;

const TITLES: [&str; 8] =
    ["row", "what", "measured", "limit in the same run", "score", "floor", "aim", "verdict"];

/// Returns the figures as a Markdown table whose columns line up.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut lines = vec![TITLES.map(str::to_owned)];
    lines.extend(figures.iter().map(Figure::cells));
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> =
        (0..TITLES.len()).map(|column| width(column).unwrap_or_default()).collect();
    let mut out: Vec<String> = lines.iter().map(|line| row(line, &widths)).collect();
    out.insert(1, row(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>(), &widths));
    out.join("\n")
}

fn row(cells: &[String], widths: &[usize]) -> String {
    let padded = cells.iter().zip(widths).map(|(cell, width)| format!("| {cell:<width$} "));
    padded.collect::<String>() + "|"
}

/// Writes the figures as JSON.
pub(crate) fn write(figures: &[Figure], path: &Path) -> anyhow::Result<()> {
    let figures: Vec<Value> = figures
        .iter()
        .map(|figure| {
            let mut value = serde_json::to_value(figure)?;
            if let Value::Object(fields) = &mut value {
                fields.insert("verdict".to_owned(), json!(figure.verdict()));
            }
            Ok(value)
        })
        .collect::<serde_json::Result<_>>()?;
    let text = serde_json::to_string_pretty(&json!({ "figures": figures }))?;
    std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
}
