//! `/openapi.json`, made from the route table.

use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, HttpMethod, InfoBuilder, ObjectBuilder, OpenApi,
    OpenApiBuilder, PathItem, PathsBuilder, Ref, RefOr, Required, ResponseBuilder, Schema, Type,
    path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn},
    request_body::RequestBodyBuilder,
    security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};

use super::{
    route::{Access, Keep, Route, Takes},
    routes::ROUTES,
    schemas,
};

/// Describes the whole API.
pub(super) fn document() -> OpenApi {
    let mut components = ComponentsBuilder::new().security_scheme(
        "bearer",
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some("A JWT or an API key. In `dev` none is needed."))
                .build(),
        ),
    );
    for (name, schema) in schemas::all() {
        components = components.schema(name, schema);
    }
    let mut paths = PathsBuilder::new();
    for route in ROUTES {
        let item = PathItem::new(method(route), operation(route));
        paths = paths.path(plain_path(route.path), item);
    }
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("SomaAgent01")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(ABOUT))
                .build(),
        )
        .paths(paths.build())
        .components(Some(components.build()))
        .build()
}

const ABOUT: &str = "An AI-agent platform. A message that is accepted (202) ends in exactly one \
    terminal event: `assistant.final`, `assistant.error` or `assistant.cancelled`. Errors are \
    problem details (RFC 9457) with a stable `code`. `X-Request-ID` and `traceparent` are taken \
    over and answered. Writes take an `Idempotency-Key`: the same key and body get the same answer.";

/// Returns a path without the patterns that only the router needs.
pub(super) fn plain_path(path: &str) -> String {
    path.replace(":.+}", "}")
}

fn method(route: &Route) -> HttpMethod {
    match route.method {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

fn operation(route: &Route) -> Operation {
    let mut operation = OperationBuilder::new()
        .operation_id(Some(route.name))
        .tag(route.tag)
        .summary(Some(route.summary));
    for name in path_parameters(route.path) {
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .schema(Some(text()));
        operation = operation.parameter(parameter);
    }
    for (name, about) in route.query {
        let parameter = ParameterBuilder::new()
            .name(*name)
            .parameter_in(ParameterIn::Query)
            .required(Required::False)
            .description(Some(*about))
            .schema(Some(text()));
        operation = operation.parameter(parameter);
    }
    for (name, about) in headers(route) {
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(about))
            .schema(Some(text()));
        operation = operation.parameter(parameter);
    }
    if let Some(schema) = route.body {
        operation = operation.request_body(Some(
            RequestBodyBuilder::new()
                .content(
                    media_type(route.takes),
                    ContentBuilder::new().schema(Some(named(schema))).build(),
                )
                .required(Some(if route.takes == Takes::MaybeJson {
                    Required::False
                } else {
                    Required::True
                }))
                .build(),
        ));
    }
    if route.access != Access::Public {
        operation =
            operation.security(SecurityRequirement::new::<_, [&str; 0], &str>("bearer", []));
    }
    responses(route, operation).build()
}

fn responses(route: &Route, mut operation: OperationBuilder) -> OperationBuilder {
    let mut statuses: Vec<u16> = route.gives.iter().map(|(status, _)| *status).collect();
    statuses.dedup();
    for status in statuses {
        let mut response = ResponseBuilder::new().description(phrase(status));
        for (_, what) in route.gives.iter().filter(|(given, _)| *given == status) {
            response = match *what {
                "" => response,
                media if media.contains('/') => {
                    response.content(media, ContentBuilder::new().build())
                }
                schema => response.content(
                    "application/json",
                    ContentBuilder::new().schema(Some(named(schema))).build(),
                ),
            };
        }
        operation = operation.response(status.to_string(), response.build());
    }
    let problem =
        ResponseBuilder::new().description("A refusal or failure, as problem details").content(
            "application/problem+json",
            ContentBuilder::new().schema(Some(named("Problem"))).build(),
        );
    operation.response("default", problem.build())
}

fn headers(route: &Route) -> Vec<(&'static str, &'static str)> {
    let mut headers = Vec::new();
    if route.keep != Keep::Nothing {
        headers.push(("Idempotency-Key", "Drawn by the client, anew for each new request"));
    }
    if route.path.ends_with("/events") {
        headers.push(("Last-Event-ID", "The last `id` of a stream that is resumed"));
    }
    if route.name == "chat_completion" {
        headers.push(("X-Session-ID", "The session; counts more than `user`"));
    }
    headers
}

fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| name.split(':').next().unwrap_or(name))
}

fn media_type(takes: Takes) -> &'static str {
    if takes == Takes::Multipart { "multipart/form-data" } else { "application/json" }
}

fn named(schema: &str) -> RefOr<Schema> {
    Ref::from_schema_name(schema).into()
}

fn text() -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).build().into()
}

fn phrase(status: u16) -> &'static str {
    match status {
        201 => "Made",
        202 => "Accepted: durable, and under way",
        503 => "Not now",
        _ => "Done",
    }
}
