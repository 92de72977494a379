//! The way of every request: ids, limits, caller, rate, body, handler, and one kind of error.
//!
//! There is no other way to a handler, and a handler panics into a 500 of its own request alone.

use std::{any::Any, panic::AssertUnwindSafe};

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    http::{
        ConnectionType, Method,
        header::{self, HeaderMap, HeaderValue},
    },
    web::{Bytes, Payload},
};
use futures::FutureExt;
use soma_contract::{TenantId, access::Caller, port::policy::Action};
use tokio::time::Instant;
use tracing::{Instrument, field::Empty, info_span};

use super::{
    access,
    body::{self, Bounds},
    call::{self, Call},
    codes,
    edge::Edge,
    idempotency,
    passport::Passport,
    problem::{Answer, Problem},
    rate,
    routes::{Access, Rate, Route, Takes},
};

const MAX_HEADERS: usize = 32 * 1024;
const MAX_URI: usize = 8 * 1024;
/// What multipart adds to the files themselves.
const MULTIPART_OVERHEAD: usize = 64 * 1024;

/// Answers one request of a route.
pub(super) async fn dispatch(
    edge: Edge,
    route: &'static Route,
    request: HttpRequest,
    payload: Payload,
) -> HttpResponse {
    let started = Instant::now();
    let in_flight = edge.metrics().begin();
    let passport = Passport::of(request.headers(), &*edge.parts().ids);
    let method = request.method().clone();
    let span = info_span!(
        "request",
        method = %method,
        route = route.path,
        request_id = %passport.request_id,
        trace_id = passport.trace_id(),
        tenant = Empty,
        session_id = Empty,
        status = Empty,
    );
    let handled = handle(edge.clone(), route, request, payload, passport.clone());
    let handled = AssertUnwindSafe(handled).catch_unwind().instrument(span.clone()).await;
    let answer = handled.unwrap_or_else(|panic| Err(panicked(route, &*panic)));
    let mut response = answer.unwrap_or_else(|problem| {
        edge.metrics().problem(problem.code().name);
        problem.render(route.dialect, &passport.request_id)
    });
    finish(&passport, response.headers_mut());
    if edge.is_draining() {
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    // The HTTP library leaves out the body of an answer to `HEAD`, but would wait for its end.
    if method == Method::HEAD && response.body().size() == BodySize::Stream {
        response = response.set_body(BoxBody::new(()));
    }
    span.record("status", response.status().as_u16());
    let took = started.elapsed();
    edge.metrics().answered(label(&method), route.path, response.status().as_u16(), took);
    span.in_scope(|| tracing::debug!(status = response.status().as_u16(), ?took, "answered"));
    drop(in_flight);
    response
}

async fn handle(
    edge: Edge,
    route: &'static Route,
    request: HttpRequest,
    payload: Payload,
    passport: Passport,
) -> Answer {
    check_head(&request)?;
    let caller = admit(&edge, route, &request).await?;
    tracing::Span::current().record("tenant", caller.tenant.0.as_str());
    let body = take_body(&edge, route, request.headers(), payload).await?;
    let idempotency = idempotency::read(route, request.headers(), &body)?;
    idempotency::around(Call { edge, route, request, passport, caller, body, idempotency }).await
}

/// Refuses heads that are larger than they need to be, in our own words: the HTTP library's own
/// limit (128 KiB) answers without a body.
fn check_head(request: &HttpRequest) -> Result<(), Problem> {
    let uri = request.uri().path_and_query().map_or(0, |text| text.as_str().len());
    if uri > MAX_URI {
        return Err(Problem::of(codes::URI_TOO_LONG));
    }
    let size: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size > MAX_HEADERS {
        return Err(Problem::of(codes::HEADERS_TOO_LARGE));
    }
    Ok(())
}

/// Applies the route's access rule and rate limit.
async fn admit(edge: &Edge, route: &Route, request: &HttpRequest) -> Result<Caller, Problem> {
    if route.access == Access::Public {
        let nobody = TenantId::public();
        return Ok(Caller { tenant: nobody, subject: String::new(), admin: false });
    }
    let caller = access::caller(edge, request).await?;
    if route.access == Access::Admin && !caller.admin {
        return Err(Problem::of(codes::ADMIN_REQUIRED));
    }
    if route.rate == Rate::Subject {
        rate::admit(edge, &caller).await?;
    }
    if route.access == Access::Admin {
        let context = serde_json::json!({"admin": true});
        call::permit(edge, &caller, Action::Admin, route.path, None, context).await?;
    }
    Ok(caller)
}

async fn take_body(
    edge: &Edge,
    route: &Route,
    headers: &HeaderMap,
    payload: Payload,
) -> Result<Bytes, Problem> {
    let limits = &edge.settings().limits;
    let bounds = match route.takes {
        Takes::Nothing => return Ok(Bytes::new()),
        Takes::Json | Takes::MaybeJson => {
            Bounds { limit: limits.max_body, timeout: limits.body_read_timeout, per_piece: false }
        }
        Takes::Multipart => Bounds {
            limit: limits.max_upload.saturating_add(MULTIPART_OVERHEAD),
            timeout: limits.body_read_timeout,
            per_piece: true,
        },
    };
    check_content_type(route.takes, headers)?;
    body::read(headers, payload, bounds).await
}

fn check_content_type(takes: Takes, headers: &HeaderMap) -> Result<(), Problem> {
    let wanted = match takes {
        Takes::Nothing => return Ok(()),
        Takes::Json | Takes::MaybeJson => "application/json",
        Takes::Multipart => "multipart/form-data",
    };
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        if takes == Takes::MaybeJson {
            return Ok(());
        }
        return Err(Problem::new(codes::UNSUPPORTED_MEDIA_TYPE, "there is no Content-Type"));
    };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let is_json_like = wanted == "application/json"
        && essence.starts_with("application/")
        && essence.ends_with("+json");
    if essence.eq_ignore_ascii_case(wanted) || is_json_like {
        return Ok(());
    }
    Err(Problem::new(
        codes::UNSUPPORTED_MEDIA_TYPE,
        format!("the body is `{essence}`, not `{wanted}`"),
    ))
}

fn panicked(route: &Route, panic: &(dyn Any + Send)) -> Problem {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words");
    Problem::internal(format!("the handler of {} {} panicked: {message}", route.method, route.path))
}

/// Adds what every answer has.
fn finish(passport: &Passport, headers: &mut HeaderMap) {
    passport.stamp(headers);
    let mut default = |name: header::HeaderName, value: &'static str| {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    };
    default(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    default(header::X_FRAME_OPTIONS, "DENY");
    default(header::REFERRER_POLICY, "no-referrer");
    default(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'");
    default(header::CACHE_CONTROL, "no-store");
}

/// A made-up method must not make up a label.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
