//! The personas that every tenant has, from a file.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::ensure;
use serde::Deserialize;
use soma_contract::persona::Persona;

use crate::http;

/// The file that `SA01_TURNS_PERSONAS` names is of no use.
#[derive(Debug, thiserror::Error)]
#[error("read personas `{}`", file.display())]
pub(super) struct PersonasError {
    file: PathBuf,
    source: anyhow::Error,
}

/// Reads the file; without one there are none.
///
/// # Errors
///
/// The file cannot be read, is no JSON array of personas, or names one twice.
pub(super) fn load(file: Option<&Path>) -> Result<Arc<[Persona]>, PersonasError> {
    let Some(file) = file else { return Ok(Arc::from([])) };
    std::fs::read_to_string(file)
        .map_err(anyhow::Error::from)
        .and_then(|text| parse(&text))
        .map_err(|source| PersonasError { file: file.to_owned(), source })
}

/// A persona of the file. A misspelt `tools` must not mean all tools.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    persona_id: String,
    prompt: String,
    model: Option<String>,
    tools: Option<Vec<String>>,
}

fn parse(text: &str) -> anyhow::Result<Arc<[Persona]>> {
    let entries: Vec<Entry> = serde_json::from_str(text)?;
    let mut ids = BTreeSet::new();
    for Entry { persona_id, prompt, .. } in &entries {
        ensure!(
            http::is_persona_id(persona_id),
            "`{persona_id}` is no id of a persona: 1 to 64 letters, digits, `-`, `_` and `.`"
        );
        ensure!(!prompt.trim().is_empty(), "the prompt of `{persona_id}` is empty");
        ensure!(ids.insert(persona_id), "`{persona_id}` is there twice");
    }
    Ok(entries.into_iter().map(Persona::from).collect())
}

impl From<Entry> for Persona {
    fn from(Entry { persona_id, prompt, model, tools }: Entry) -> Self {
        Self { persona_id, prompt, model, tools }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persona_has_a_prompt_and_may_have_more() {
        let personas = parse(r#"[{"persona_id": "pirate", "prompt": "Arr", "tools": ["echo"]}]"#);
        assert!(personas.unwrap()[0].may_use("echo"));
    }

    #[test]
    fn an_id_is_there_once() {
        let twice = r#"[{"persona_id": "a", "prompt": "x"}, {"persona_id": "a", "prompt": "x"}]"#;
        assert_eq!(parse(twice).unwrap_err().to_string(), "`a` is there twice");
    }

    #[test]
    fn what_the_api_would_refuse_is_refused() {
        for (bad, why) in [
            (r#"[{"persona_id": "a", "prompt": "x", "tool": ["echo"]}]"#, "unknown field `tool`"),
            (r#"[{"persona_id": "a/b", "prompt": "x"}]"#, "`a/b` is no id"),
            (r#"[{"persona_id": "a", "prompt": " "}]"#, "the prompt of `a` is empty"),
        ] {
            let refused = parse(bad).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
