//! The personas that every tenant has, from a file.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use anyhow::{Context, ensure};
use soma_contract::persona::Persona;

/// Reads the file; without one there are none.
///
/// # Errors
///
/// The file cannot be read, is no JSON array of personas, or names one twice.
pub(super) fn load(file: Option<&Path>) -> anyhow::Result<Arc<[Persona]>> {
    let Some(file) = file else { return Ok(Arc::from([])) };
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("read personas `{name}`"))?;
    parse(&text).with_context(|| format!("read personas `{name}`"))
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
