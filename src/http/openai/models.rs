//! The names that a request's `model` may have: the model's own, and one per persona.

use actix_web::{FromRequest, web};
use serde::Serialize;
use soma_contract::persona::Persona;
use utoipa::ToSchema;

use crate::http::{
    call::{Call, ok},
    codes, personas,
    problem::{Answer, Problem},
};

const PERSONA: &str = "persona/";

/// What `GET /v1/models` answers.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct Models {
    /// `list`.
    object: &'static str,
    /// The models.
    data: Vec<Model>,
}

/// A name that a request's `model` may have.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct Model {
    /// The name.
    id: String,
    /// `model`.
    object: &'static str,
    /// Not known: 0.
    created: u64,
    /// `somaagent`.
    owned_by: &'static str,
}

impl Model {
    fn named(id: String) -> Self {
        Self { id, object: "model", created: 0, owned_by: "somaagent" }
    }
}

/// `GET /v1/models`.
pub(in crate::http) async fn models(call: Call) -> Answer {
    let personas = personas::all(&call).await?;
    let own = std::iter::once(call.edge.parts().model.default_model());
    let names = personas.iter().map(|persona| format!("{PERSONA}{}", persona.persona_id));
    ok(&Models { object: "list", data: own.chain(names).map(Model::named).collect() })
}

/// `GET /v1/models/{model}`.
pub(in crate::http) async fn model(call: Call) -> Answer {
    // OpenAI's clients write the `/` of a name as `%2F`, which the router leaves as it is.
    let name = web::Path::<String>::extract(&call.request).await.map_err(|error| {
        Problem::new(codes::MODEL_NOT_FOUND, format!("there is no such model: {error}"))
    })?;
    let name = name.into_inner();
    persona(&call, &name).await?;
    ok(&Model::named(name))
}

/// Returns the persona that a model's name stands for; the model's own name is the default one.
pub(super) async fn persona(call: &Call, name: &str) -> Result<Option<String>, Problem> {
    let unknown = || Problem::new(codes::MODEL_NOT_FOUND, format!("there is no model `{name}`"));
    if name == call.edge.parts().model.default_model() {
        return Ok(None);
    }
    let persona_id = name.strip_prefix(PERSONA).ok_or_else(unknown)?;
    match personas::find(call, persona_id).await {
        Ok(Persona { persona_id, .. }) => Ok(Some(persona_id)),
        Err(problem) if problem.code().status < 500 => Err(unknown()),
        Err(problem) => Err(problem),
    }
}
