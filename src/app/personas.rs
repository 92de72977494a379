//! The personas that every tenant has, from a file.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::ensure;
use soma_contract::persona::Persona;

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

fn parse(text: &str) -> anyhow::Result<Arc<[Persona]>> {
    let personas: Vec<Persona> = serde_json::from_str(text)?;
    let mut ids = BTreeSet::new();
    for persona in &personas {
        ensure!(!persona.persona_id.is_empty(), "a persona has an empty `persona_id`");
        ensure!(ids.insert(&persona.persona_id), "`{}` is there twice", persona.persona_id);
    }
    Ok(personas.into())
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
        let twice = r#"[{"persona_id": "a", "prompt": ""}, {"persona_id": "a", "prompt": ""}]"#;
        assert_eq!(parse(twice).unwrap_err().to_string(), "`a` is there twice");
    }
}
