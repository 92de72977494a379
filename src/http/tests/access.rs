//! Every route against every kind of caller.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::support::{Ask, Setup, Site, sign, token};
use crate::http::{
    openapi::plain_path,
    route::{Access, Keep, Rate, Route, Served, Takes},
    routes::ROUTES,
};

/// A path of the route, with ids that nobody has unless told.
fn path(route: &Route, id: &str) -> String {
    plain_path(route.path)
        .replace("{session_id}", id)
        .replace("{event_id}", id)
        .replace("{memory_id}", id)
        .replace("{attachment_id}", id)
        .replace("{letter}", "7")
        .replace("{key_id}", &"0".repeat(32))
        .replace("{persona_id}", "pirate")
        .replace("{name}", "gateway")
        .replace("{model}", "fake-model")
}

/// A body that the route understands.
fn body(route: &Route) -> Ask {
    let value: Value = match route.name {
        "send_message" => json!({"message": "hello"}),
        "chat_completion" => {
            json!({"model": "fake-model", "messages": [{"role": "user", "content": "hello"}]})
        }
        "request_tool" => json!({"tool_name": "echo"}),
        "write_memories" => json!({"items": [{"content": "likes tea"}]}),
        "put_persona" => json!({"prompt": "Arr"}),
        "create_key" => json!({"label": "test"}),
        "set_log_level" => json!({"level": "debug"}),
        "inject_fault" => json!({"kind": "panic"}),
        "cancel" => json!({}),
        _ => return Ask::default(),
    };
    Ask::json(&value)
}

const NOBODYS: &str = "00000000-0000-4000-8000-00000000000f";

fn api() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(|route| route.served != Served::Admin)
}

#[tokio::test]
async fn nobody_gets_past_a_rule_without_a_good_token() {
    let site = Site::with(Setup::locked);
    let foreign_key = format!("sk_{}_{}", "0".repeat(32), "a".repeat(43));
    let bad = [
        (None, "token_missing"),
        (Some("nonsense".to_owned()), "token_invalid"),
        (Some(foreign_key), "token_invalid"),
        (Some(sign(&json!({"tenant": "acme", "sub": "ann", "exp": 1}))), "token_invalid"),
        (Some(sign(&json!({"tenant": "acme", "sub": "ann"}))), "token_invalid"),
        (Some(sign(&json!({"sub": "ann", "exp": 4_102_444_800_u64}))), "token_invalid"),
        (
            Some(sign(&json!({"tenant": "..", "sub": "ann", "exp": 4_102_444_800_u64}))),
            "token_invalid",
        ),
    ];
    for route in api() {
        for (token, code) in &bad {
            let mut ask = body(route);
            ask.token.clone_from(token);
            let reply = site.ask(route.method, &path(route, NOBODYS), ask).await;
            if route.access == Access::Public {
                assert_eq!(reply.status, 200, "{route:?}");
            } else {
                assert_eq!((reply.status, reply.code()), (401, *code), "{route:?}");
                assert_eq!(reply.header("www-authenticate"), "Bearer");
            }
        }
    }
}

#[tokio::test]
async fn without_authentication_no_page_of_another_site_is_served() {
    let site = Site::new();
    for (name, value) in [("host", "evil.example"), ("origin", "https://evil.example")] {
        for route in api() {
            let ask = body(route).header(name, value);
            let reply = site.ask(route.method, &path(route, NOBODYS), ask).await;
            if route.access == Access::Public {
                assert_eq!(reply.status, 200, "{route:?}");
            } else {
                assert_eq!((reply.status, reply.code()), (403, "foreign_origin"), "{route:?}");
            }
        }
    }
    let page_of_ours = Ask::default().header("origin", "http://localhost:3000");
    assert_eq!(site.ask("GET", "/v1/tools", page_of_ours).await.status, 200);
    // Whoever has a token is no page that merely happens to be open.
    let locked = Site::with(Setup::locked);
    let ask = Ask::default().token(token("acme", "ann", "")).header("host", "agent.example");
    assert_eq!(locked.ask("GET", "/v1/tools", ask).await.status, 200);
}

#[tokio::test]
async fn only_an_administrator_uses_the_admin_routes() {
    let site = Site::with(Setup::locked);
    for route in api().filter(|route| route.access == Access::Admin) {
        let ask = body(route).token(token("acme", "ann", "chat administrator"));
        let reply = site.ask(route.method, &path(route, NOBODYS), ask).await;
        assert_eq!((reply.status, reply.code()), (403, "admin_required"), "{route:?}");
        let ask = body(route).token(token("acme", "root", "chat admin"));
        let reply = site.ask(route.method, &path(route, NOBODYS), ask).await;
        assert!(reply.status < 300 || reply.status == 404, "{route:?}: {reply:?}");
    }
}

/// Admin routes that name no tenant's things, and so concern them all.
#[test]
fn the_shipped_policy_keeps_what_concerns_every_tenant_for_operators() {
    let data = include_str!("../../../config/policy/data.json");
    let data: Value = serde_json::from_str(data).unwrap();
    let listed: BTreeSet<_> = data["admin"]["process_wide"]
        .as_array()
        .unwrap()
        .iter()
        .map(|path| path.as_str().unwrap())
        .collect();
    let of_a_tenant = ["/v1/keys", "/v1/admin/dlq", "/v1/personas"];
    let process_wide: BTreeSet<_> = api()
        .filter(|route| route.access == Access::Admin)
        .map(|route| route.path)
        .filter(|path| !of_a_tenant.iter().any(|own| path.starts_with(own)))
        .collect();
    assert_eq!(listed, process_wide);
}

#[tokio::test]
async fn what_belongs_to_another_tenant_does_not_exist() {
    let site = Site::with(Setup::locked);
    let owner = token("acme", "ann", "admin");
    let as_owner = |ask: Ask| ask.token(&owner);
    let message = as_owner(Ask::json(&json!({"message": "hello"})));
    let accepted = site.ask("POST", "/v1/session/message", message).await.body;
    let memory = as_owner(Ask::json(&json!({"items": [{"content": "likes tea"}]})));
    let memory = site.ask("POST", "/v1/memory/batch", memory).await.body;
    let upload = as_owner(super::resources::upload(&[("files", Some("a.txt"), "text")]));
    let upload = site.ask("POST", "/v1/uploads", upload).await.body;
    let key = as_owner(Ask::json(&json!({"label": "mine"})));
    let key = site.ask("POST", "/v1/keys", key).await.body;
    site.ask("PUT", "/v1/personas/pirate", as_owner(Ask::json(&json!({"prompt": "Arr"})))).await;
    let claimed = site.claim(&accepted).await;
    site.end(&claimed, soma_contract::testing::sample::failed(&claimed, "gone")).await;
    let letters = site.ask("GET", "/v1/admin/dlq", as_owner(Ask::default())).await.body;

    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let session = text(&accepted["session_id"]);
    let letter = letters["items"][0]["id"].to_string();
    let own = [
        ("GET", format!("/v1/messages/{}", text(&accepted["event_id"]))),
        ("GET", format!("/v1/sessions/{session}")),
        ("GET", format!("/v1/sessions/{session}/history")),
        ("GET", format!("/v1/sessions/{session}/events")),
        ("GET", format!("/v1/session/{session}/events")),
        ("POST", format!("/v1/sessions/{session}/cancel")),
        ("GET", format!("/v1/memory/{}", text(&memory["items"][0]["memory_id"]))),
        ("DELETE", format!("/v1/memory/{}", text(&memory["items"][0]["memory_id"]))),
        ("GET", format!("/v1/attachments/{}", text(&upload[0]["id"]))),
        ("GET", "/v1/personas/pirate".to_owned()),
        ("GET", format!("/v1/admin/dlq/{letter}")),
        ("POST", format!("/v1/admin/dlq/{letter}/replay")),
        ("DELETE", format!("/v1/admin/dlq/{letter}")),
        ("DELETE", format!("/v1/keys/{}", text(&key["key_id"]))),
        ("DELETE", format!("/v1/sessions/{session}")),
    ];
    for (method, path) in &own {
        let other = Ask::default().token(token("other", "bob", "admin"));
        let reply = site.ask(method, path, other).await;
        assert_eq!((reply.status, reply.code()), (404, "not_found"), "{method} {path}");
    }
    for (path, list) in [
        ("/v1/sessions", "items"),
        ("/v1/admin/dlq", "items"),
        ("/v1/keys", "keys"),
        ("/v1/memory/search?q=tea", "results"),
    ] {
        let other = Ask::default().token(token("other", "bob", "admin"));
        assert_eq!(site.ask("GET", path, other).await.body[list], json!([]), "{path}");
        let mine = site.ask("GET", path, Ask::default().token(&owner)).await.body;
        assert_eq!(mine[list].as_array().unwrap().len(), 1, "{path}");
        // The tenant `public` is the operator's own.
        let operator = Ask::default().token(token("public", "root", "admin"));
        let all = site.ask("GET", path, operator).await.body;
        let seen = usize::from(path.contains("dlq") || path.contains("keys"));
        assert_eq!(all[list].as_array().unwrap().len(), seen, "{path}");
    }
    let other = Ask::default().token(token("other", "bob", "admin"));
    assert_eq!(site.ask("GET", "/v1/memory/export", other).await.text, "");
    // Every route with an id in its path is in the list, or has no owner.
    for route in ROUTES.iter().filter(|route| route.path.contains('{')) {
        let ownerless =
            ["get_model", "put_persona", "service_health", "restart_service", "inject_fault"];
        let is_listed = own.iter().any(|(method, path)| {
            super::described::route(method, path).is_some_and(|found| found.name == route.name)
        });
        assert!(is_listed || ownerless.contains(&route.name), "{route:?}");
    }
    // And the owner still has everything.
    for (method, path) in own {
        let reply = site.ask(method, &path, Ask::default().token(&owner)).await;
        assert!(reply.status < 300 || reply.code() == "nothing_to_cancel", "{path}: {reply:?}");
    }
}

#[tokio::test]
async fn an_api_key_opens_its_tenant_until_it_is_revoked() {
    let site = Site::with(Setup::locked);
    let root = token("acme", "root", "admin");
    let made = site.ask("POST", "/v1/keys", Ask::json(&json!({"label": "bot"})).token(&root)).await;
    assert_eq!(made.status, 201);
    let secret = made.body["secret"].as_str().unwrap().to_owned();
    assert_eq!(made.body["prefix"], secret.chars().take(12).collect::<String>());
    let with_key = |key: &str| Ask::default().token(key);
    assert_eq!(site.ask("GET", "/v1/sessions", with_key(&secret)).await.status, 200);
    site.ask("GET", "/v1/keys", with_key(&secret)).await.is_problem(403, "admin_required");
    let mut wrong = secret.clone();
    wrong.pop();
    wrong.push(if secret.ends_with('A') { 'B' } else { 'A' });
    site.ask("GET", "/v1/sessions", with_key(&wrong)).await.is_problem(401, "token_invalid");
    let listed = site.ask("GET", "/v1/keys", Ask::default().token(&root)).await;
    assert!(!listed.text.contains(&secret) && listed.body["keys"][0]["last_used_at"].is_string());
    let path = format!("/v1/keys/{}", made.body["key_id"].as_str().unwrap());
    assert_eq!(site.ask("DELETE", &path, Ask::default().token(&root)).await.status, 204);
    site.ask("GET", "/v1/sessions", with_key(&secret)).await.is_problem(401, "token_invalid");
}

#[tokio::test]
async fn keys_for_other_tenants_are_made_by_the_operator_alone() {
    let site = Site::with(Setup::locked);
    let ask = |tenant: &str| {
        Ask::json(&json!({"label": "x", "tenant": "acme"})).token(token(tenant, "root", "admin"))
    };
    site.ask("POST", "/v1/keys", ask("other")).await.is_problem(403, "admin_required");
    assert_eq!(site.ask("POST", "/v1/keys", ask("acme")).await.body["tenant"], "acme");
    assert_eq!(site.ask("POST", "/v1/keys", ask("public")).await.body["tenant"], "acme");
}

#[tokio::test]
async fn a_token_checked_by_a_public_key_cannot_be_signed_with_it() {
    let site = Site::with(|setup| {
        setup.settings.auth.required = true;
        setup.settings.auth.jwt_public_key = Some(soma_config::Secret::new(RSA_PUBLIC));
    });
    let claims = json!({"tenant": "acme", "sub": "ann", "exp": 4_102_444_800_u64});
    let sign = |algorithm, key: &jsonwebtoken::EncodingKey| {
        jsonwebtoken::encode(&jsonwebtoken::Header::new(algorithm), &claims, key).unwrap()
    };
    let private = jsonwebtoken::EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap();
    let good = sign(jsonwebtoken::Algorithm::RS256, &private);
    assert_eq!(site.ask("GET", "/v1/tools", Ask::default().token(good)).await.status, 200);
    let other = sign(jsonwebtoken::Algorithm::RS512, &private);
    site.ask("GET", "/v1/tools", Ask::default().token(other))
        .await
        .is_problem(401, "token_invalid");
    let secret = jsonwebtoken::EncodingKey::from_secret(RSA_PUBLIC.as_bytes());
    let forged = sign(jsonwebtoken::Algorithm::HS256, &secret);
    site.ask("GET", "/v1/tools", Ask::default().token(forged))
        .await
        .is_problem(401, "token_invalid");
    // {"alg":"none"}
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4iLCJ0ZW5hbnQiOiJhY21lIn0.";
    site.ask("GET", "/v1/tools", Ask::default().token(none)).await.is_problem(401, "token_invalid");
}

#[tokio::test]
async fn audience_and_issuer_are_checked_where_set() {
    let site = Site::with(|setup| {
        setup.locked();
        setup.settings.auth.jwt_audience = Some("somaagent".to_owned());
        setup.settings.auth.jwt_issuer = Some("https://id.example.org".to_owned());
    });
    let claims = |audience: Value, issuer: &str| {
        sign(
            &json!({"tenant": "a", "sub": "b", "exp": 4_102_444_800_u64, "aud": audience, "iss": issuer}),
        )
    };
    let good = claims(json!(["x", "somaagent"]), "https://id.example.org");
    assert_eq!(site.ask("GET", "/v1/tools", Ask::default().token(good)).await.status, 200);
    for bad in [
        claims(json!("x"), "https://id.example.org"),
        claims(json!("somaagent"), "https://evil.example.org"),
        token("a", "b", ""),
    ] {
        site.ask("GET", "/v1/tools", Ask::default().token(bad))
            .await
            .is_problem(401, "token_invalid");
    }
}

#[tokio::test]
async fn published_keys_are_fetched_and_an_issuer_that_is_away_is_a_503() {
    let jwks = super::resources::serve_once_json(JWKS).await;
    let site = Site::with(|setup| {
        setup.settings.auth.required = true;
        setup.settings.auth.jwks_url = Some(soma_config::ServerUrl::new(jwks));
    });
    let claims = json!({"tenant": "acme", "sub": "ann", "exp": 4_102_444_800_u64});
    let private = jsonwebtoken::EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap();
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256);
    header.kid = Some("key-1".to_owned());
    let good = jsonwebtoken::encode(&header, &claims, &private).unwrap();
    assert_eq!(site.ask("GET", "/v1/tools", Ask::default().token(&good)).await.status, 200);
    // The second time from the cache: the server answered once.
    assert_eq!(site.ask("GET", "/v1/tools", Ask::default().token(&good)).await.status, 200);
    header.kid = Some("key-2".to_owned());
    let unknown = jsonwebtoken::encode(&header, &claims, &private).unwrap();
    site.ask("GET", "/v1/tools", Ask::default().token(unknown))
        .await
        .is_problem(401, "token_invalid");

    let away = Site::with(|setup| {
        setup.settings.auth.required = true;
        setup.settings.auth.jwks_url = Some(soma_config::ServerUrl::new("http://127.0.0.1:1/"));
    });
    away.ask("GET", "/v1/tools", Ask::default().token(good))
        .await
        .is_problem(503, "identity_unavailable");
}

#[tokio::test]
async fn an_issuer_that_is_away_holds_up_no_token_of_a_key_at_hand() {
    let site = Site::with(|setup| {
        setup.locked();
        setup.settings.auth.jwt_public_key = Some(soma_config::Secret::new(RSA_PUBLIC));
        setup.settings.auth.jwks_url = Some(soma_config::ServerUrl::new("http://127.0.0.1:1/"));
    });
    let claims = json!({"tenant": "acme", "sub": "ann", "exp": 4_102_444_800_u64});
    let private = jsonwebtoken::EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap();
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256);
    let by_public_key = jsonwebtoken::encode(&header, &claims, &private).unwrap();
    for good in [token("acme", "ann", ""), by_public_key] {
        assert_eq!(site.ask("GET", "/v1/tools", Ask::default().token(good)).await.status, 200);
    }
    // Published keys are no shared secrets: a token of an unknown one is refused without them.
    let forged = jsonwebtoken::EncodingKey::from_secret(&[7; 32]);
    let forged = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &forged).unwrap();
    site.ask("GET", "/v1/tools", Ask::default().token(forged))
        .await
        .is_problem(401, "token_invalid");
}

#[tokio::test]
async fn a_subject_has_an_allowance_and_the_next_one_its_own() {
    let site = Site::with(|setup| {
        setup.locked();
        setup.settings.rate.per_second = 1;
        setup.settings.rate.burst = 3;
    });
    let ask = |subject: &str| Ask::default().token(token("acme", subject, ""));
    for live_is_down in [false, true] {
        site.live.set_down(live_is_down);
        let subject = if live_is_down { "cat" } else { "ann" };
        let mut limited = None;
        // Far more than the allowance gives back meanwhile, also on a busy machine.
        for _ in 0..1_000 {
            let reply = site.ask("GET", "/v1/tools", ask(subject)).await;
            if reply.status != 200 {
                limited = Some(reply);
                break;
            }
        }
        let limited = limited.unwrap();
        limited.is_problem(429, "rate_limited");
        assert!(limited.header("retry-after").parse::<u64>().unwrap() >= 1);
        assert_eq!(site.ask("GET", "/v1/tools", ask("bob")).await.status, 200);
    }
    assert_eq!(site.get("/v1/health").await.status, 200);
}

#[test]
fn every_route_that_has_a_caller_has_an_allowance() {
    for route in ROUTES {
        assert_eq!(route.rate == Rate::Subject, route.access != Access::Public, "{route:?}");
        assert_eq!(route.takes == Takes::Nothing, route.body.is_none(), "{route:?}");
        assert!(route.access != Access::Public || route.keep == Keep::Nothing, "{route:?}");
    }
}

// Made for these tests alone.
const RSA_PRIVATE: &str = include_str!("rsa_private.pem");
const RSA_PUBLIC: &str = include_str!("rsa_public.pem");
const JWKS: &str = include_str!("jwks.json");
