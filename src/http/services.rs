//! The supervision tree: what runs, why something is stuck, and restarts by hand.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};

use super::{
    call::{Call, ok},
    codes,
    edge::RestartError,
    problem::{Answer, Problem},
};

/// A session whose turn nobody has claimed for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);
const MAX_STUCK: u32 = 50;
/// A service has its own start deadline; this is a little longer than any.
const RESTART_DEADLINE: Duration = Duration::from_mins(2);

/// `GET /v1/services`.
pub(super) async fn tree(call: Call) -> Answer {
    let tree = call.edge.parts().supervision.tree();
    let store = call.store();
    // The tree is wanted most when the store does not answer.
    let stuck = call.edge.ask(async move { store.claimable(STUCK_AFTER, MAX_STUCK).await }).await;
    let (stuck, reason) = match stuck {
        Ok(sessions) => (sessions, None),
        Err(problem) => (Vec::new(), Some(problem.detail().to_owned())),
    };
    let why = format!("nobody has claimed its turn for {} s", STUCK_AFTER.as_secs());
    let stuck: Vec<Value> =
        stuck.iter().map(|session| json!({"session_id": session, "reason": why})).collect();
    let mut body = match tree {
        Value::Object(tree) => tree,
        other => Map::from_iter([("services".to_owned(), other)]),
    };
    body.insert("stuck_sessions".to_owned(), stuck.into());
    if let Some(reason) = reason {
        body.insert("stuck_sessions_unknown".to_owned(), reason.into());
    }
    ok(&body)
}

/// `GET /v1/services/{name}/health`.
pub(super) async fn health(call: Call) -> Answer {
    let name = call.part("name");
    match call.edge.parts().supervision.service(name) {
        Some(service) => ok(&service),
        None => Err(unknown(name)),
    }
}

/// `POST /v1/services/{name}/restart`.
pub(super) async fn restart(call: Call) -> Answer {
    let name = call.part("name").to_owned();
    tracing::info!(service = name, subject = call.caller.subject, "a restart was ordered");
    let supervision = Arc::clone(&call.edge.parts().supervision);
    let asked = name.clone();
    call.edge
        .ask_within(RESTART_DEADLINE, async move { supervision.restart(&asked).await })
        .await?;
    match call.edge.parts().supervision.service(&name) {
        Some(service) => ok(&service),
        None => Err(unknown(&name)),
    }
}

fn unknown(name: &str) -> Problem {
    Problem::new(codes::NOT_FOUND, format!("no service is called `{name}`"))
}

impl From<RestartError> for Problem {
    fn from(error: RestartError) -> Self {
        match error {
            RestartError::Unknown(name) => unknown(&name),
            RestartError::Failed(_) => Self::new(codes::SERVICE_RESTARTING, error.to_string()),
        }
    }
}
