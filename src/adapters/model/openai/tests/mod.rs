//! The adapter against a scripted server with real sockets.

use futures::StreamExt;
use soma_contract::model::{ChatMessage, ModelAnswer, Usage};

use super::*;
use crate::adapters::{
    model::tokens::Tokens,
    scripted::{Act, Server, answer, chunk, chunked, status, stream},
};

const PATIENT: Duration = Duration::from_mins(5);
const IMPATIENT: Duration = Duration::from_millis(50);

fn settings(url: &str) -> Settings {
    Settings {
        base_url: url.to_owned(),
        api_key: Some(Secret::new("sk-test")),
        model: "gpt-test".to_owned(),
        fallback: None,
        connect_timeout: PATIENT,
        read_timeout: PATIENT,
        total_timeout: PATIENT,
        max_retries: 2,
    }
}

fn model(settings: Settings) -> OpenAiModel {
    OpenAiModel::new(settings, Arc::new(Tokens::estimated())).unwrap()
}

/// A model whose endpoint may say only this much.
fn bounded(settings: Settings, bounds: Bounds) -> OpenAiModel {
    let mut model = model(settings);
    Arc::get_mut(&mut model.endpoint).unwrap().bounds = bounds;
    model
}

fn request() -> ChatRequest {
    let messages = vec![ChatMessage::User { content: "Say hi".to_owned() }];
    ChatRequest { model: None, messages, tools: vec![] }
}

/// Asks and returns what a reader has in the end: the text, how often it was taken back, the answer.
async fn ask(model: &OpenAiModel) -> (String, usize, Result<ModelAnswer, ModelError>) {
    let (mut text, mut resets) = (String::new(), 0);
    let mut events = model.chat(request()).await;
    while let Some(event) = events.next().await {
        match event {
            Ok(ModelEvent::Delta(piece)) => text.push_str(&piece),
            Ok(ModelEvent::Reset) => {
                text.clear();
                resets += 1;
            }
            Ok(ModelEvent::Answer(answer)) => {
                assert!(events.next().await.is_none());
                return (text, resets, Ok(answer));
            }
            Err(error) => {
                assert!(events.next().await.is_none());
                return (text, resets, Err(error));
            }
        }
    }
    panic!("the stream ended without an answer")
}

fn say(text: &str) -> String {
    let content = serde_json::json!(text);
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":{content}}}}}]}}\n\n")
}

const STOP: &str = "data: {\"model\":\"gpt-test-1\",\"choices\":[{\"index\":0,\"delta\":{},\
    \"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn good() -> Vec<Act> {
    vec![stream(&[&say("Hi "), &say("there"), STOP, USAGE, DONE].concat())]
}

#[tokio::test]
async fn an_answer_is_told_piece_by_piece_and_then_whole() {
    let server = Server::start(vec![good()]).await;
    let model = model(settings(&server.url));
    let events: Vec<_> = model.chat(request()).await.map(Result::unwrap).collect().await;
    assert_eq!(
        events,
        [
            ModelEvent::Delta("Hi ".to_owned()),
            ModelEvent::Delta("there".to_owned()),
            ModelEvent::Answer(ModelAnswer {
                text: "Hi there".to_owned(),
                tool_calls: vec![],
                usage: Usage { input_tokens: 7, output_tokens: 2 },
                model: "gpt-test-1".to_owned(),
                finish_reason: "stop".to_owned(),
            }),
        ]
    );
    let seen = server.seen();
    assert!(seen[0].head.starts_with("POST /v1/chat/completions "), "{}", seen[0].head);
    assert!(seen[0].head.to_ascii_lowercase().contains("authorization: bearer sk-test"));
    assert_eq!(seen[0].body["model"], "gpt-test");
    assert_eq!(seen[0].body["stream_options"]["include_usage"], true);
}

#[tokio::test]
async fn odd_but_whole_answers_are_understood() {
    let no_done = [say("Hi there"), STOP.to_owned()].concat();
    let no_reason = [&say("Hi there"), DONE].concat();
    let no_space = no_reason.replace("data: ", "data:").replace("\n\n", "\n");
    let no_end = [&say("Hi there"), STOP.trim_end()].concat();
    let parts = no_done.replace("\"Hi there\"", "[{\"type\":\"text\",\"text\":\"Hi there\"}]");
    for body in [no_done, no_reason, no_space, no_end, parts] {
        let server = Server::start(vec![vec![stream(&body)]]).await;
        let (text, _, answer) = ask(&model(settings(&server.url))).await;
        let answer = answer.unwrap();
        assert_eq!((text.as_str(), answer.text.as_str()), ("Hi there", "Hi there"), "{body}");
        assert_eq!(answer.finish_reason, "stop");
        assert!(answer.usage.input_tokens > 0 && answer.usage.output_tokens > 0);
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_understood() {
    let body = r#"{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}"#;
    let server = Server::start(vec![vec![answer("200 OK", "application/json", body)]]).await;
    let (text, _, answer) = ask(&model(settings(&server.url))).await;
    assert_eq!((text.as_str(), answer.unwrap().text.as_str()), ("Hi", "Hi"));
}

#[tokio::test]
async fn calls_of_unknown_tools_and_with_duplicate_ids_pass_through_with_unique_ids() {
    let call = "{\"id\":\"same\",\"function\":{\"name\":\"no_such\",\"arguments\":{\"a\":1}}}";
    let body = format!(
        "data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{call},{call}]}},\
         \"finish_reason\":null}}]}}\n\n{DONE}"
    );
    let server = Server::start(vec![vec![stream(&body)]]).await;
    let answer = ask(&model(settings(&server.url))).await.2.unwrap();
    assert_eq!(answer.finish_reason, "tool_calls");
    assert_eq!(answer.tool_calls.len(), 2);
    assert_ne!(answer.tool_calls[0].id, answer.tool_calls[1].id);
    assert_eq!(answer.tool_calls[1].name, "no_such");
    assert_eq!(answer.tool_calls[1].arguments, "{\"a\":1}");
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_taken_back_and_asked_for_again() {
    let cut_clean = vec![stream(&say("Good "))];
    let cut_short = vec![chunked(), chunk(&say("Good "))];
    let half_event = vec![stream(&[&say("Good "), "data: {\"choi"].concat())];
    let reset = vec![chunked(), chunk(&say("Good ")), Act::Reset];
    let failed =
        vec![stream(&[&say("Good "), "data: {\"error\":{\"message\":\"x\"}}\n\n"].concat())];
    let garbled = vec![stream(&[&say("Good "), "data: {oops}\n\n"].concat())];
    for script in [cut_clean, cut_short, half_event, failed, garbled] {
        let server = Server::start(vec![script.clone(), good()]).await;
        let (text, resets, answer) = ask(&model(settings(&server.url))).await;
        assert_eq!((text.as_str(), resets), ("Hi there", 1), "{script:?}");
        assert_eq!(answer.unwrap().text, "Hi there");
        assert_eq!(server.seen().len(), 2);
    }
    // A reset may overtake the text before it: whether that was told is up to the sockets.
    let server = Server::start(vec![reset, good()]).await;
    let (text, _, answer) = ask(&model(settings(&server.url))).await;
    assert_eq!((text.as_str(), answer.unwrap().text.as_str()), ("Hi there", "Hi there"));
}

#[tokio::test]
async fn failures_before_the_first_word_are_repeated_without_a_word() {
    for first in [
        vec![status("500 Internal Server Error", "", "oops")],
        vec![status("529 Busy", "", "{\"error\":{\"message\":\"overloaded\"}}")],
        vec![Act::Reset],
        vec![],
    ] {
        let server = Server::start(vec![first.clone(), good()]).await;
        let (text, resets, answer) = ask(&model(settings(&server.url))).await;
        assert_eq!((text.as_str(), resets), ("Hi there", 0), "{first:?}");
        assert!(answer.is_ok());
    }
}

#[tokio::test]
async fn a_wait_that_was_asked_for_is_kept_if_short_and_passed_on_if_long() {
    let busy = |wait: &str| {
        vec![status("429 Too Many Requests", &format!("Retry-After: {wait}\r\n"), "slow down")]
    };
    let server = Server::start(vec![busy("1"), good()]).await;
    let began = tokio::time::Instant::now();
    assert!(ask(&model(settings(&server.url))).await.2.is_ok());
    assert!(began.elapsed() >= Duration::from_secs(1));

    let server = Server::start(vec![busy("3600")]).await;
    let error = ask(&model(settings(&server.url))).await.2.unwrap_err();
    let ModelError::Unavailable { reason, retry_after } = error else { panic!("{error}") };
    assert!(reason.contains("slow down"), "{reason}");
    assert_eq!(retry_after, Some(Duration::from_hours(1)));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn what_lasts_is_told_at_once() {
    for (line, told) in [
        ("401 Unauthorized", "key refused"),
        ("403 Forbidden", "key refused"),
        ("404 Not Found", "no such model: `gpt-test`"),
        ("400 Bad Request", "refused the request"),
        ("307 Temporary Redirect", "refused the request"),
    ] {
        let script = vec![status(line, "Location: http://a.test\r\n", "no such model")];
        let server = Server::start(vec![script]).await;
        let error = ask(&model(settings(&server.url))).await.2.unwrap_err();
        assert!(error.to_string().contains(told), "{line}: {error}");
        assert_eq!(server.seen().len(), 1, "{line}");
    }
}

#[tokio::test]
async fn what_goes_on_failing_is_told_after_the_repetitions() {
    let server = Server::start(vec![vec![status("503 Service Unavailable", "", "down")]]).await;
    let error = ask(&model(settings(&server.url))).await.2.unwrap_err();
    assert!(matches!(error, ModelError::Unavailable { .. }), "{error}");
    assert_eq!(server.seen().len(), 3);

    let server = Server::start(vec![vec![stream("data: nonsense\n\n")]]).await;
    let error = ask(&model(settings(&server.url))).await.2.unwrap_err();
    assert!(matches!(&error, ModelError::Malformed(why) if why.contains("nonsense")), "{error}");
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn nobody_listening_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = ask(&model(settings(&url))).await.2.unwrap_err();
    assert!(matches!(error, ModelError::Unavailable { .. }), "{error}");
    assert!(model(settings(&url)).ping().await.is_err());
}

#[tokio::test]
async fn silence_before_and_between_the_words_has_an_end() {
    for script in [vec![Act::Hang], vec![chunked(), chunk(&say("Good ")), Act::Hang]] {
        let server = Server::start(vec![script]).await;
        let settings =
            Settings { read_timeout: IMPATIENT, max_retries: 0, ..settings(&server.url) };
        let error = ask(&model(settings)).await.2.unwrap_err();
        assert!(error.to_string().contains("silent for 50ms"), "{error}");
    }
}

#[tokio::test]
async fn a_slow_drip_ends_with_the_time_for_the_whole_answer_and_closes_the_call() {
    let drip = Act::Repeat(b"1\r\n:\r\n".to_vec(), Duration::from_millis(5));
    let mut server = Server::start(vec![vec![chunked(), drip]]).await;
    let settings = Settings { total_timeout: IMPATIENT, ..settings(&server.url) };
    let error = ask(&model(settings)).await.2.unwrap_err();
    assert!(error.to_string().contains("no whole answer within 50ms"), "{error}");
    server.closed(server.seen().len()).await;
}

#[tokio::test]
async fn dropping_the_stream_closes_the_call() {
    let mut server = Server::start(vec![vec![chunked(), chunk(&say("Good ")), Act::Hang]]).await;
    let model = model(settings(&server.url));
    let mut events = model.chat(request()).await;
    assert_eq!(events.next().await, Some(Ok(ModelEvent::Delta("Good ".to_owned()))));
    drop(events);
    server.closed(1).await;
}

#[tokio::test]
async fn an_endless_answer_is_cut_and_says_so() {
    let piece = say("more and more ");
    let endless =
        Act::Repeat(format!("{:x}\r\n{piece}\r\n", piece.len()).into_bytes(), Duration::ZERO);
    let mut server = Server::start(vec![vec![chunked(), endless]]).await;
    let bounds = Bounds { answer_bytes: 10_000, ..Bounds::default() };
    let (text, _, answer) = ask(&bounded(settings(&server.url), bounds)).await;
    let answer = answer.unwrap();
    assert_eq!(answer.finish_reason, "length");
    assert_eq!(text, answer.text);
    assert!((10_000..10_100).contains(&text.len()));
    server.closed(1).await;
}

#[tokio::test]
async fn a_huge_event_is_malformed_before_it_is_whole() {
    let mut server = Server::start(vec![vec![
        answer("200 OK", "text/event-stream", "data: \""),
        Act::Repeat(vec![b'x'; 1 << 20], Duration::ZERO),
    ]])
    .await;
    let settings = Settings { max_retries: 0, ..settings(&server.url) };
    let error = ask(&model(settings)).await.2.unwrap_err();
    assert!(matches!(&error, ModelError::Malformed(why) if why.contains("1048576")), "{error}");
    server.closed(1).await;
}

#[tokio::test]
async fn what_a_server_does_not_understand_is_left_out_and_not_tried_again() {
    let refuses = |what: &str| vec![status("400 Bad Request", "", what)];
    let server = Server::start(vec![
        refuses("unknown field `stream_options`"),
        vec![stream(&[&say("Hi"), STOP, DONE].concat())],
    ])
    .await;
    let model = model(settings(&server.url));
    for _ in 0..2 {
        let answer = ask(&model).await.2.unwrap();
        assert!(answer.usage.output_tokens > 0, "counted here");
    }
    let told: Vec<bool> =
        server.seen().iter().map(|seen| seen.body.get("stream_options").is_some()).collect();
    assert_eq!(told, [true, false, false]);
}

#[tokio::test]
async fn the_fallback_model_answers_when_the_wanted_one_cannot() {
    let failing = vec![stream(&say("Good "))];
    let server = Server::start(vec![failing.clone(), failing, good()]).await;
    let settings = Settings {
        fallback: Some("gpt-small".to_owned()),
        max_retries: 1,
        ..settings(&server.url)
    };
    let (text, resets, answer) = ask(&model(settings)).await;
    assert_eq!((text.as_str(), resets), ("Hi there", 2));
    assert!(answer.is_ok());
    let models: Vec<_> =
        server.seen().iter().map(|seen| seen.body["model"].as_str().unwrap().to_owned()).collect();
    assert_eq!(models, ["gpt-test", "gpt-test", "gpt-small"]);
}

#[tokio::test]
async fn a_ping_tells_whether_key_and_model_are_known() {
    let listed = r#"{"data":[{"id":"gpt-test"}]}"#;
    let other = r#"{"data":[{"id":"another"}]}"#;
    for (line, body, expected) in [
        ("200 OK", listed, ""),
        ("200 OK", other, "no such model: `gpt-test`"),
        ("401 Unauthorized", "", "key refused"),
        ("404 Not Found", "", ""),
        ("500 Oops", "", "unavailable"),
    ] {
        let server = Server::start(vec![vec![status(line, "", body)]]).await;
        let model = model(settings(&server.url));
        let news = model.ping().await.err().map_or_else(String::new, |error| error.to_string());
        assert!(
            news.contains(expected) && news.is_empty() == expected.is_empty(),
            "{line}: {news}"
        );
        assert!(server.seen()[0].head.starts_with("GET /v1/models "));
        if expected.is_empty() {
            assert!(model.ping().await.is_ok());
            assert_eq!(server.seen().len(), 1, "good news is kept for a while");
        }
    }
}

#[tokio::test]
async fn a_model_that_has_answered_need_not_be_listed() {
    let server =
        Server::start(vec![good(), vec![status("200 OK", "", r#"{"data":[{"id":"x"}]}"#)]]);
    let server = server.await;
    let model = model(settings(&server.url));
    assert!(ask(&model).await.2.is_ok());
    assert!(model.ping().await.is_ok());
}

#[test]
fn the_key_is_never_shown_and_must_be_sendable() {
    let shown = format!("{:?}", model(settings("http://a.test")));
    assert!(!shown.contains("sk-test") && shown.contains("a.test"), "{shown}");
    let settings = Settings { api_key: Some(Secret::new("a\nb")), ..settings("http://a.test") };
    let refused = OpenAiModel::new(settings, Arc::new(Tokens::estimated()));
    assert!(matches!(refused, Err(SetupError::Key)));
}
