//! Personas: the tenant's own, those from files, and the built-in one.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_json::json;
use soma_contract::{persona::Persona, port::store::StoreError};
use utoipa::ToSchema;

use super::{
    call::{Call, ok},
    codes,
    problem::{Answer, Problem},
};

const MAX_PROMPT: usize = 64 * 1024;
const MAX_MODEL: usize = 256;

/// `GET /v1/personas`.
pub(super) async fn list(call: Call) -> Answer {
    let personas = all(&call).await?;
    ok(&json!({"personas": personas}))
}

/// Returns every persona that the caller's tenant has, by id.
pub(super) async fn all(call: &Call) -> Result<Vec<Persona>, Problem> {
    let (store, tenant) = (call.store(), call.caller.tenant.clone());
    let own = call.edge.ask(async move { store.personas(&tenant).await }).await?;
    let mut personas = BTreeMap::new();
    let built_in = [Persona::built_in()];
    for persona in built_in.iter().chain(&*call.edge.parts().personas).chain(&own) {
        personas.insert(persona.persona_id.clone(), persona.clone());
    }
    Ok(personas.into_values().collect())
}

/// `GET /v1/personas/{persona_id}`.
pub(super) async fn get(call: Call) -> Answer {
    let persona = find(&call, call.part("persona_id")).await?;
    ok(&persona)
}

/// Finds a persona of the caller's tenant.
pub(super) async fn find(call: &Call, persona_id: &str) -> Result<Persona, Problem> {
    check_id(persona_id)?;
    let files = Arc::clone(&call.edge.parts().personas);
    let (store, tenant, id) = (call.store(), call.caller.tenant.clone(), persona_id.to_owned());
    call.edge
        .ask(async move {
            match store.persona(&tenant, &id).await {
                Err(StoreError::NotFound) => shipped(&files, &id).ok_or(StoreError::NotFound),
                found => found,
            }
        })
        .await
}

/// Finds the persona that a body names.
pub(super) async fn named(call: &Call, persona_id: &str) -> Result<Persona, Problem> {
    find(call, persona_id).await.map_err(|problem| {
        if problem.code().status >= 500 {
            return problem;
        }
        Problem::new(codes::UNKNOWN_PERSONA, format!("there is no persona `{persona_id}`"))
    })
}

/// Returns a persona that every tenant has.
fn shipped(files: &[Persona], persona_id: &str) -> Option<Persona> {
    let from_file = files.iter().find(|persona| persona.persona_id == persona_id).cloned();
    from_file.or_else(|| (persona_id == Persona::DEFAULT).then(Persona::built_in))
}

/// What `PUT /v1/personas/{persona_id}` takes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PutPersona {
    /// The system prompt.
    prompt: String,
    /// The model's name; none is the configured one.
    #[serde(default)]
    model: Option<String>,
    /// The tools that it may use; none is all.
    #[serde(default)]
    tools: Option<Vec<String>>,
}

/// `PUT /v1/personas/{persona_id}`.
pub(super) async fn put(call: Call) -> Answer {
    let persona_id = call.part("persona_id").to_owned();
    check_id(&persona_id)?;
    let PutPersona { prompt, model, tools } = call.json()?;
    check_prompt(&prompt, model.as_deref())?;
    check_tools(&call, tools.as_deref().unwrap_or_default())?;
    let persona = Persona { persona_id, prompt, model, tools };
    let (store, tenant, kept) = (call.store(), call.caller.tenant.clone(), persona.clone());
    call.edge.ask(async move { store.put_persona(&tenant, kept).await }).await?;
    ok(&persona)
}

/// Says whether this may be a persona's id, which may become part of paths and keys.
pub fn is_persona_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn check_id(persona_id: &str) -> Result<(), Problem> {
    if is_persona_id(persona_id) {
        return Ok(());
    }
    let detail = "a persona's id has 1 to 64 letters, digits, `-`, `_` and `.`";
    Err(Problem::new(codes::INVALID_ID, detail))
}

fn check_prompt(prompt: &str, model: Option<&str>) -> Result<(), Problem> {
    if prompt.trim().is_empty() || prompt.len() > MAX_PROMPT {
        let detail = format!("`prompt` has 1 to {MAX_PROMPT} bytes");
        return Err(Problem::new(codes::INVALID_BODY, detail));
    }
    if model.is_some_and(|model| model.trim().is_empty() || model.len() > MAX_MODEL) {
        let detail = format!("`model` has 1 to {MAX_MODEL} bytes");
        return Err(Problem::new(codes::INVALID_BODY, detail));
    }
    Ok(())
}

fn check_tools(call: &Call, tools: &[String]) -> Result<(), Problem> {
    let known = call.edge.parts().tools.specs();
    match tools.iter().find(|tool| known.iter().all(|spec| spec.name != **tool)) {
        None => Ok(()),
        Some(tool) => Err(Problem::new(codes::UNKNOWN_TOOL, format!("no tool is called `{tool}`"))),
    }
}
