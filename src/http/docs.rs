//! The description of the API: for programs, and for people on a page that needs nothing else.

use std::{fmt::Write, sync::LazyLock};

use actix_web::{
    HttpResponse,
    http::header::{self, HeaderValue},
    web::Bytes,
};

use super::{
    call::Call,
    codes,
    openapi::{document, plain_path},
    problem::Answer,
    route::{Access, Route, Served},
    routes::ROUTES,
};

static OPENAPI: LazyLock<Bytes> = LazyLock::new(|| {
    let text = document().to_pretty_json();
    Bytes::from(text.unwrap_or_else(|error| {
        tracing::error!(%error, "the description of the API cannot be written");
        "{}".to_owned()
    }))
});

static PAGE: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(render()));

/// `GET /openapi.json`.
pub(super) async fn openapi(_call: Call) -> Answer {
    Ok(HttpResponse::Ok()
        .content_type("application/json")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(OPENAPI.clone()))
}

/// `GET /docs`.
pub(super) async fn page(_call: Call) -> Answer {
    let style_only = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    Ok(HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(style_only)))
        .body(PAGE.clone()))
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
    padding:0 1rem;color:#222;background:#fff}code{font:14px ui-monospace,monospace}\
    h2{margin-top:2.5rem;border-bottom:1px solid #ccc}table{border-collapse:collapse;width:100%}\
    td,th{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #ddd}\
    .m{font-weight:600;min-width:4rem;display:inline-block}.a{color:#666;font-size:.85em}\
    @media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}.a{color:#999}\
    a{color:#8bf}td,th{border-color:#333}}";

fn render() -> String {
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport \
         content=\"width=device-width\"><title>SomaAgent01 API</title><style>{STYLE}</style>\
         <h1>SomaAgent01 API <span class=a>{}</span></h1><p>A message that is accepted \
         (<code>202</code>) ends in exactly one terminal event. Errors are problem details with \
         a stable <code>code</code>, listed <a href=#errors>below</a>. For programs: \
         <a href=/openapi.json>openapi.json</a>.</p>",
        env!("CARGO_PKG_VERSION")
    );
    page.push_str(
        "<pre><code>curl -H 'Content-Type: application/json' -d '{\"message\": \"hello\"}' \\\n     \
         'http://127.0.0.1:8010/v1/session/message?wait=30s'</code></pre>",
    );
    let mut tag = "";
    for route in ROUTES {
        if route.tag != tag {
            tag = route.tag;
            put(&mut page, format_args!("<h2>{}</h2>", escape(tag)));
        }
        describe(&mut page, route);
    }
    page.push_str("<h2 id=errors>Errors</h2><table><tr><th>status<th>code<th>what to do</tr>");
    for code in codes::ALL {
        put(
            &mut page,
            format_args!(
                "<tr id=\"error-{0}\"><td>{1}<td><code>{0}</code><td>{2}. {3}</tr>",
                code.name,
                code.status,
                escape(code.title),
                escape(code.advice)
            ),
        );
    }
    page.push_str("</table></html>");
    page
}

fn describe(page: &mut String, route: &Route) {
    let who = match (route.access, route.served) {
        (_, Served::Admin) => "admin listener only",
        (Access::Public, _) => "public",
        (Access::Tenant, _) => "",
        (Access::Admin, _) => "admin",
    };
    put(
        page,
        format_args!(
            "<p><span class=m>{}</span> <code>{}</code> <span class=a>{who}</span><br>{}.",
            route.method,
            escape(&plain_path(route.path)),
            escape(route.summary)
        ),
    );
    for (name, about) in route.query {
        put(page, format_args!("<br><span class=a><code>?{name}</code> {}.</span>", escape(about)));
    }
    if let Some(body) = route.body {
        put(page, format_args!("<br><span class=a>Takes <code>{body}</code>.</span>"));
    }
    let gives: Vec<_> = route
        .gives
        .iter()
        .map(|(status, what)| format!("{status} <code>{}</code>", escape(what)))
        .collect();
    put(page, format_args!("<br><span class=a>Gives {}.</span></p>", gives.join(", ")));
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    page.write_fmt(text).unwrap_or_default();
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_route_and_code_and_loads_nothing() {
        let page = render();
        for route in ROUTES {
            assert!(page.contains(&escape(&plain_path(route.path))), "{route:?}");
        }
        for code in codes::ALL {
            assert!(page.contains(&format!("error-{}", code.name)));
        }
        assert!(!page.contains("src=") && !page.contains("<script"));
    }
}
