//! The one table of routes. Registration, `/openapi.json`, `/docs` and the tests of access and of
//! malformed input are all made from it.

use actix_web::{
    HttpRequest,
    http::Method,
    web::{self, Payload, ServiceConfig},
};

pub(super) use super::route::{Access, Keep, Parameter, Rate, Route, Served, Takes};
use super::{
    call::Call,
    codes, dead_letters,
    dispatch::dispatch,
    docs,
    edge::Edge,
    events, health, keys, log_level, memory, messages, openai, personas,
    problem::{Answer, Problem},
    services, sessions, tools, uploads,
};

macro_rules! run {
    ($handler:path) => {
        |call| Box::pin($handler(call))
    };
}

use Access::{Admin, Public, Tenant};

const LIST: &[Parameter] = &[
    ("cursor", "Where the page begins: the `next_cursor` of the page before"),
    ("limit", "The most rows, 1 to 200; 50 if not set"),
];
const EVENTS: &[Parameter] = &[
    ("after", "Only events whose `seq` is higher; the header `Last-Event-ID` says the same"),
    ("limit", "The most events of a page, 1 to 500; 100 if not set"),
    ("stream", "`1` asks for an event stream, as the header `Accept: text/event-stream` does"),
];

/// Every route there is.
pub(super) static ROUTES: &[Route] = &[
    // Messages.
    Route::new(Tenant, "POST", "/v1/session/message", "send_message", run!(messages::send))
        .tells("messages", "Accepts a message durably; its session is made if there is none")
        .query(&[(
            "wait",
            "Waits for the terminal event and answers it, e.g. `30s`; 202 if it takes longer",
        )])
        .takes(Takes::Json, "SendMessage")
        .accepts()
        .gives(&[(202, "Accepted"), (200, "Event")]),
    Route::new(Tenant, "GET", "/v1/messages/{event_id}", "message_status", run!(messages::status))
        .tells("messages", "Tells what became of a message")
        .gives(&[(200, "MessageStatus")]),
    // Sessions.
    Route::new(Tenant, "GET", "/v1/sessions", "list_sessions", run!(sessions::list))
        .tells("sessions", "Lists sessions, newest activity first")
        .query(LIST)
        .gives(&[(200, "Sessions")]),
    Route::new(Tenant, "GET", "/v1/sessions/{session_id}", "get_session", run!(sessions::get))
        .tells("sessions", "Returns a session")
        .gives(&[(200, "Session")]),
    Route::new(
        Tenant,
        "DELETE",
        "/v1/sessions/{session_id}",
        "delete_session",
        run!(sessions::delete),
    )
    .tells("sessions", "Deletes a session and its content for ever")
    .query(&[("memories", "`1` forgets the memories that came from it as well")])
    .writes()
    .gives(&[(204, "")]),
    Route::new(
        Tenant,
        "POST",
        "/v1/sessions/{session_id}/cancel",
        "cancel",
        run!(sessions::cancel),
    )
    .tells("sessions", "Cancels the lowest unfinished turn, or the one that answers `event_id`")
    .query(&[("all", "`1` cancels every unfinished turn")])
    .takes(Takes::MaybeJson, "Cancel")
    .writes()
    .gives(&[(200, "Cancelled"), (202, "Cancelled")]),
    Route::new(
        Tenant,
        "GET",
        "/v1/sessions/{session_id}/history",
        "history",
        run!(sessions::history),
    )
    .tells(
        "sessions",
        "Returns the conversation: what was said and answered, as events and as Markdown",
    )
    .query(&[("limit", "The most events, 1 to 2000; 500 if not set")])
    .gives(&[(200, "History")]),
    Route::new(Tenant, "GET", "/v1/sessions/{session_id}/events", "events", run!(events::read))
        .tells("sessions", "Returns a page of the session's log, or follows it as an event stream")
        .query(EVENTS)
        .gives(&[(200, "Events"), (200, "text/event-stream")]),
    Route::new(
        Tenant,
        "GET",
        "/v1/session/{session_id}/events",
        "events_alias",
        run!(events::read),
    )
    .tells("sessions", "The same under its old path")
    .query(EVENTS)
    .gives(&[(200, "Events"), (200, "text/event-stream")]),
    // OpenAI's shapes.
    Route::new(Tenant, "POST", "/v1/chat/completions", "chat_completion", run!(openai::chat))
        .tells("openai", "Answers a conversation in OpenAI's shapes, over the same durable turns")
        .takes(Takes::Json, "ChatCompletionRequest")
        .accepts()
        .like_openai()
        .gives(&[(200, "ChatCompletion"), (200, "text/event-stream")]),
    Route::new(Tenant, "GET", "/v1/models", "list_models", run!(openai::models))
        .tells("openai", "Lists the model, and each persona as `persona/<id>`")
        .like_openai()
        .gives(&[(200, "Models")]),
    Route::new(Tenant, "GET", "/v1/models/{model:.+}", "get_model", run!(openai::model))
        .tells("openai", "Returns one of them")
        .like_openai()
        .gives(&[(200, "Model")]),
    // Tools.
    Route::new(Tenant, "GET", "/v1/tools", "list_tools", run!(tools::list))
        .tells("tools", "Lists the tools")
        .gives(&[(200, "Tools")]),
    Route::new(Tenant, "POST", "/v1/tool/request", "request_tool", run!(tools::request))
        .tells(
            "tools",
            "Runs a tool as a turn of its own: it ends in a terminal event of the session",
        )
        .query(&[(
            "wait",
            "Waits for the terminal event and answers it, e.g. `30s`; 202 if it takes longer",
        )])
        .takes(Takes::Json, "ToolRequest")
        .accepts()
        .gives(&[(202, "Accepted"), (200, "Event")]),
    // Files.
    Route::new(Tenant, "POST", "/v1/uploads", "upload", run!(uploads::upload))
        .tells("files", "Keeps files, to be attached to messages")
        .takes(Takes::Multipart, "Upload")
        .writes()
        .gives(&[(201, "Attachments")]),
    Route::new(
        Tenant,
        "GET",
        "/v1/attachments/{attachment_id}",
        "download",
        run!(uploads::download),
    )
    .tells("files", "Returns a file as it was uploaded")
    .gives(&[(200, "application/octet-stream")]),
    // Memory.
    Route::new(Tenant, "POST", "/v1/memory/batch", "write_memories", run!(memory::batch))
        .tells(
            "memory",
            "Writes memories; they are durable when this answers, and recalled from then on",
        )
        .takes(Takes::Json, "MemoryBatch")
        .writes()
        .gives(&[(202, "MemoryReceipts")]),
    Route::new(Tenant, "GET", "/v1/memory/search", "search_memories", run!(memory::search))
        .tells("memory", "Searches the tenant's memories, best first; without words the newest")
        .query(&[
            ("q", "Words to look for"),
            ("session_id", "Only memories of this session"),
            ("persona_id", "Only memories of this persona"),
            ("kind", "Only memories of this kind"),
            ("limit", "The most results, 1 to 100; 20 if not set"),
        ])
        .gives(&[(200, "MemoryResults")]),
    Route::new(Tenant, "GET", "/v1/memory/export", "export_memories", run!(memory::export))
        .tells("memory", "Streams every memory of the tenant, one JSON document a line")
        .gives(&[(200, "application/x-ndjson")]),
    Route::new(Tenant, "GET", "/v1/memory/{memory_id}", "get_memory", run!(memory::get))
        .tells("memory", "Returns a memory")
        .gives(&[(200, "Memory")]),
    Route::new(Tenant, "DELETE", "/v1/memory/{memory_id}", "delete_memory", run!(memory::delete))
        .tells("memory", "Forgets a memory")
        .writes()
        .gives(&[(204, "")]),
    // Personas.
    Route::new(Tenant, "GET", "/v1/personas", "list_personas", run!(personas::list))
        .tells("personas", "Lists the personas")
        .gives(&[(200, "Personas")]),
    Route::new(Tenant, "GET", "/v1/personas/{persona_id}", "get_persona", run!(personas::get))
        .tells("personas", "Returns a persona")
        .gives(&[(200, "Persona")]),
    Route::new(Admin, "PUT", "/v1/personas/{persona_id}", "put_persona", run!(personas::put))
        .tells("personas", "Adds or replaces a persona of the tenant")
        .takes(Takes::Json, "PutPersona")
        .writes()
        .gives(&[(200, "Persona")]),
    // Administration.
    Route::new(Admin, "GET", "/v1/admin/dlq", "list_dead_letters", run!(dead_letters::list))
        .tells("admin", "Lists dead letters, newest first")
        .query(LIST)
        .gives(&[(200, "DeadLetters")]),
    Route::new(Admin, "GET", "/v1/admin/dlq/{letter}", "get_dead_letter", run!(dead_letters::get))
        .tells("admin", "Returns a dead letter")
        .gives(&[(200, "DeadLetter")]),
    Route::new(
        Admin,
        "POST",
        "/v1/admin/dlq/{letter}/replay",
        "replay_dead_letter",
        run!(dead_letters::replay),
    )
    .tells("admin", "Replays a dead letter; twice before it has ended is once")
    .writes()
    .gives(&[(202, "ReplayOutcome")]),
    Route::new(
        Admin,
        "DELETE",
        "/v1/admin/dlq/{letter}",
        "drop_dead_letter",
        run!(dead_letters::drop_letter),
    )
    .tells("admin", "Drops a dead letter for good")
    .writes()
    .gives(&[(204, "")]),
    Route::new(Admin, "POST", "/v1/keys", "create_key", run!(keys::create))
        .tells("admin", "Makes an API key for the tenant; its secret is shown this once")
        .takes(Takes::Json, "NewKey")
        .writes()
        .gives(&[(201, "CreatedKey")]),
    Route::new(Admin, "GET", "/v1/keys", "list_keys", run!(keys::list))
        .tells("admin", "Lists API keys, without their secrets")
        .gives(&[(200, "Keys")]),
    Route::new(Admin, "DELETE", "/v1/keys/{key_id}", "revoke_key", run!(keys::revoke))
        .tells("admin", "Revokes an API key")
        .writes()
        .gives(&[(204, "")]),
    Route::new(Admin, "PUT", "/v1/admin/log-level", "set_log_level", run!(log_level::set))
        .tells("admin", "Sets what is logged until the next start, e.g. `info,soma_gateway=debug`")
        .takes(Takes::Json, "LogLevel")
        .gives(&[(200, "LogLevel")]),
    Route::new(Admin, "GET", "/v1/services", "services", run!(services::tree))
        .tells("admin", "Returns the supervision tree, and which sessions are stuck")
        .gives(&[(200, "Services")]),
    Route::new(
        Admin,
        "GET",
        "/v1/services/{name}/health",
        "service_health",
        run!(services::health),
    )
    .tells("admin", "Returns what is known of one service")
    .gives(&[(200, "Service")]),
    Route::new(
        Admin,
        "POST",
        "/v1/services/{name}/restart",
        "restart_service",
        run!(services::restart),
    )
    .tells("admin", "Restarts a service and answers when it is ready again")
    .writes()
    .gives(&[(200, "Service")]),
    #[cfg(feature = "failpoints")]
    Route::new(
        Admin,
        "POST",
        "/v1/services/{name}/fault",
        "inject_fault",
        run!(super::fault::inject),
    )
    .tells("admin", "Makes a service panic or block its thread; only test builds have it")
    .takes(Takes::Json, "InjectedFault")
    .writes()
    .gives(&[(204, "")]),
    // Health.
    Route::new(Public, "GET", "/v1/health", "health", run!(health::report))
        .tells("health", "Returns the state of every component; always 200")
        .query(&[("strict", "`1` answers 503 when something needed is down")])
        .on(Served::Both)
        .gives(&[(200, "Health"), (503, "Health")]),
    Route::new(Public, "GET", "/health", "health_alias", run!(health::report))
        .tells("health", "The same under an old path")
        .query(&[("strict", "`1` answers 503 when something needed is down")])
        .on(Served::Both)
        .gives(&[(200, "Health"), (503, "Health")]),
    Route::new(Public, "GET", "/healthz", "healthz_alias", run!(health::report))
        .tells("health", "The same under another old path")
        .query(&[("strict", "`1` answers 503 when something needed is down")])
        .on(Served::Both)
        .gives(&[(200, "Health"), (503, "Health")]),
    Route::new(Public, "GET", "/live", "live", run!(health::live))
        .tells("health", "Says whether the process's threads still move")
        .on(Served::Both)
        .gives(&[(200, "Probe"), (503, "Probe")]),
    Route::new(Public, "GET", "/startup", "startup", run!(health::startup))
        .tells("health", "Says whether everything has come up once")
        .on(Served::Both)
        .gives(&[(200, "Probe"), (503, "Probe")]),
    Route::new(Public, "GET", "/ready", "ready", run!(health::ready))
        .tells("health", "Says whether this process wants requests")
        .on(Served::Both)
        .gives(&[(200, "Probe"), (503, "Probe")]),
    Route::new(Public, "GET", "/metrics", "metrics", run!(health::metrics))
        .tells(
            "health",
            "Returns the metrics in Prometheus' text format; on the admin listener only",
        )
        .on(Served::Admin)
        .gives(&[(200, "text/plain")]),
    // Description.
    Route::new(Public, "GET", "/openapi.json", "openapi", run!(docs::openapi))
        .tells("description", "Returns this description")
        .gives(&[(200, "application/json")]),
    Route::new(Public, "GET", "/docs", "docs", run!(docs::page))
        .tells("description", "Returns this description for people")
        .gives(&[(200, "text/html")]),
];

/// What answers where no path matches.
static NO_ROUTE: Route = Route::new(Public, "ANY", "unmatched", "no_route", run!(no_route));

/// What answers where the path takes other methods.
static OTHER_METHOD: Route =
    Route::new(Public, "ANY", "unmatched", "other_method", run!(other_method));

/// Registers the routes of one listener.
pub(super) fn configure(config: &mut ServiceConfig, edge: &Edge, listener: Served) {
    let mut paths: Vec<&'static str> = Vec::new();
    for route in served_on(listener) {
        if !paths.contains(&route.path) {
            paths.push(route.path);
        }
    }
    for path in paths {
        let mut resource = web::resource(path);
        for route in served_on(listener).filter(|route| route.path == path) {
            let edge = edge.clone();
            let answer = move |request: HttpRequest, payload: Payload| {
                dispatch(edge.clone(), route, request, payload)
            };
            resource = resource.route(methods(route.method).to(answer));
        }
        config.service(resource.default_service(fallback(edge, &OTHER_METHOD)));
    }
    config.default_service(fallback(edge, &NO_ROUTE));
}

fn served_on(listener: Served) -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(move |route| route.served == listener || route.served == Served::Both)
}

/// `HEAD` is `GET` without the body.
fn methods(method: &str) -> actix_web::Route {
    use actix_web::guard::{Any, Get, Head};
    match method {
        "POST" => web::post(),
        "PUT" => web::put(),
        "DELETE" => web::delete(),
        _ => web::route().guard(Any(Get()).or(Head())),
    }
}

fn fallback(edge: &Edge, route: &'static Route) -> actix_web::Route {
    let edge = edge.clone();
    web::to(move |request: HttpRequest, payload: Payload| {
        dispatch(edge.clone(), route, request, payload)
    })
}

async fn no_route(call: Call) -> Answer {
    let path = call.request.path();
    Err(Problem::new(codes::NO_SUCH_ROUTE, format!("there is no `{path}`")))
}

async fn other_method(call: Call) -> Answer {
    let pattern = call.request.match_pattern().unwrap_or_default();
    let mut allowed: Vec<&str> =
        ROUTES.iter().filter(|route| route.path == pattern).map(|route| route.method).collect();
    if allowed.contains(&"GET") {
        allowed.push(Method::HEAD.as_ref());
    }
    let detail = format!("`{}` is not among {}", call.request.method(), allowed.join(", "));
    Err(Problem::new(codes::METHOD_NOT_ALLOWED, detail).allow(allowed.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_unique() {
        for (place, route) in ROUTES.iter().enumerate() {
            assert!(!route.summary.is_empty() && !route.tag.is_empty(), "{route:?}");
            assert!(!route.gives.is_empty(), "{route:?}");
            for other in &ROUTES[place + 1..] {
                assert!(route.name != other.name, "{route:?}");
                assert!((route.method, route.path) != (other.method, other.path), "{route:?}");
            }
        }
    }

    #[test]
    fn only_health_and_description_are_public() {
        for route in ROUTES.iter().filter(|route| route.access == Public) {
            assert!(["health", "description"].contains(&route.tag), "{route:?}");
        }
        for route in ROUTES.iter().filter(|route| route.path.contains("/admin/")) {
            assert_eq!(route.access, Admin, "{route:?}");
        }
    }

    #[test]
    fn whatever_writes_takes_an_idempotency_key() {
        for route in ROUTES.iter().filter(|route| route.method != "GET") {
            let is_exempt = route.name == "set_log_level";
            assert!(route.keep != Keep::Nothing || is_exempt, "{route:?}");
        }
    }
}
