//! `somaagent chat`: a conversation with a running server in the terminal.
//!
//! The screen has two modes. While nothing runs, a line editor reads the next message. While an
//! answer streams, lines typed are commands (`/cancel`), and Ctrl-C cancels. Losing the server loses
//! nothing: a message is sent with one idempotency key until it is accepted, and the event stream
//! goes on where it broke off.

mod follow;
mod input;
mod screen;

use std::{path::PathBuf, time::Duration};

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use self::{
    follow::{Follower, News},
    input::{Input, Line},
    screen::Screen,
};
use super::client::{Client, ClientError};

/// How many events of a session are shown where it is gone on with.
const HISTORY: u64 = 200;

/// How the chat begins.
#[derive(Debug)]
pub(super) struct ChatOptions {
    /// The session to go on with; `None` begins a new one.
    pub(super) session: Option<Uuid>,
    /// The persona to speak with.
    pub(super) persona: Option<String>,
    /// Where lines typed and the last session are kept; `None` keeps nothing.
    pub(super) memory: Option<PathBuf>,
    /// Go on with the session of the last chat.
    pub(super) resume: bool,
}

#[derive(Debug, Deserialize)]
struct Accepted {
    session_id: Uuid,
    event_id: Uuid,
}

struct Chat {
    client: Client,
    options: ChatOptions,
    session: Option<Uuid>,
    follower: Option<Follower>,
    screen: Screen,
    input: Input,
}

/// What a typed line asks for.
enum Next {
    Say(String),
    Again,
    Quit,
}

/// Talks until the person leaves.
///
/// # Errors
///
/// The server refuses the first request, or the terminal is gone.
pub(super) async fn chat(client: Client, options: ChatOptions) -> anyhow::Result<()> {
    let health: Value = client.call(Method::GET, "/v1/health").await?;
    let mut chat = Chat::new(client, options)?;
    chat.screen.welcome(chat.client.base(), &health, chat.session);
    if chat.session.is_some() {
        chat.show_history().await;
    }
    loop {
        let next = match chat.input.ask().await {
            Line::Text(text) => chat.understand(text.trim()).await,
            Line::Interrupted => {
                chat.screen.note("/quit leaves; the server goes on");
                Next::Again
            }
            Line::Ended => Next::Quit,
        };
        match next {
            Next::Say(text) => chat.say(&text).await,
            Next::Again => {}
            Next::Quit => break,
        }
    }
    chat.screen.farewell(chat.session);
    Ok(())
}

impl Chat {
    fn new(client: Client, options: ChatOptions) -> anyhow::Result<Self> {
        let input = Input::open(options.memory.as_ref().map(|folder| folder.join("chat_history")))?;
        let session =
            options.session.or_else(|| options.resume.then(|| last_session(&options)).flatten());
        Ok(Self { client, options, session, follower: None, screen: Screen::new(), input })
    }

    async fn understand(&mut self, line: &str) -> Next {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "" => Next::Again,
            "/quit" | "/exit" => Next::Quit,
            "/new" => {
                self.session = None;
                self.follower = None;
                self.screen.note("a new session begins with your next message");
                Next::Again
            }
            "/session" => {
                match rest.trim().parse() {
                    Ok(session) => {
                        self.session = Some(session);
                        self.follower = None;
                        self.show_history().await;
                    }
                    Err(_) => self.screen.note(&self.session.map_or_else(
                        || "no session yet; /session ID opens one".to_owned(),
                        |session| format!("session {session}; /session ID opens another"),
                    )),
                }
                Next::Again
            }
            "/history" => {
                self.show_history().await;
                Next::Again
            }
            "/cancel" => {
                self.cancel().await;
                Next::Again
            }
            "/help" => {
                Screen::help();
                Next::Again
            }
            _ if line.starts_with('/') => {
                self.screen.note(&format!("`{command}` is no command; /help lists them"));
                Next::Again
            }
            _ => Next::Say(line.to_owned()),
        }
    }

    /// Sends a message and shows what happens until it is answered.
    async fn say(&mut self, text: &str) {
        let accepted = match self.send(text).await {
            Ok(accepted) => accepted,
            Err(error) => return self.screen.error(&error.to_string()),
        };
        if self.session != Some(accepted.session_id) {
            self.session = Some(accepted.session_id);
            self.follower = None;
        }
        self.remember_session(accepted.session_id);
        self.watch(accepted).await;
    }

    /// Sends until the server has taken the message or refused it; the key makes that safe.
    async fn send(&mut self, text: &str) -> Result<Accepted, ClientError> {
        let mut body = json!({ "message": text });
        if let (Value::Object(fields), Some(session)) = (&mut body, self.session) {
            fields.insert("session_id".to_owned(), json!(session));
        }
        if let (Value::Object(fields), Some(persona)) = (&mut body, &self.options.persona) {
            fields.insert("persona_id".to_owned(), json!(persona));
        }
        let once = Uuid::now_v7().to_string();
        let mut pause = Duration::from_millis(250);
        loop {
            match self.client.submit(Method::POST, "/v1/session/message", &body, &once).await {
                Err(error) if error.is_passing() => {
                    self.screen
                        .note(&format!("not sent yet, trying again (Ctrl-C gives up): {error}"));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        _ = self.input.interrupted() => return Err(error),
                    }
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
                outcome => return outcome,
            }
        }
    }

    async fn watch(&mut self, accepted: Accepted) {
        let client = &self.client;
        let follower =
            self.follower.get_or_insert_with(|| Follower::new(client.clone(), accepted.session_id));
        follower.expect(accepted.event_id);
        loop {
            let typed = tokio::select! {
                news = follower.next() => {
                    let over = matches!(news, News::Over(_) | News::Lost(_));
                    self.screen.show(news);
                    if over {
                        return;
                    }
                    continue;
                }
                line = self.input.overhear() => line,
            };
            match typed {
                Line::Interrupted => {}
                Line::Text(text) if text.trim() == "/cancel" => {}
                Line::Text(text) if text.trim().is_empty() => continue,
                Line::Text(_) => {
                    self.screen.note("an answer is under way: /cancel or Ctrl-C ends it");
                    continue;
                }
                Line::Ended => return,
            }
            cancel(client, &self.screen, accepted.session_id).await;
        }
    }

    async fn cancel(&self) {
        match self.session {
            Some(session) => cancel(&self.client, &self.screen, session).await,
            None => self.screen.note("there is nothing to cancel"),
        }
    }

    async fn show_history(&self) {
        let Some(session) = self.session else { return self.screen.note("no session yet") };
        match self.last_events(session).await {
            Ok(page) => self.screen.history(&page),
            Err(error) => self.screen.error(&error.to_string()),
        }
    }

    async fn last_events(&self, session: Uuid) -> Result<Value, ClientError> {
        let head: Value = self.client.call(Method::GET, &format!("/v1/sessions/{session}")).await?;
        self.client.call(Method::GET, &last_page(session, &head)).await
    }

    fn remember_session(&self, session: Uuid) {
        let Some(folder) = &self.options.memory else { return };
        let kept = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(folder.join("chat_session"), session.to_string()));
        if let Err(error) = kept {
            self.screen.note(&format!("the session is not kept for --resume: {error}"));
        }
    }
}

async fn cancel(client: &Client, screen: &Screen, session: Uuid) {
    let path = format!("/v1/sessions/{session}/cancel");
    let once = Uuid::now_v7().to_string();
    match client.submit::<Value>(Method::POST, &path, &json!({}), &once).await {
        Ok(_) => screen.note("cancelling"),
        Err(ClientError::Refused { status: 409, .. }) => screen.note("there is nothing to cancel"),
        Err(error) => screen.error(&error.to_string()),
    }
}

/// Where the end of a session's log is read; a page begins after its `after`.
fn last_page(session: Uuid, head: &Value) -> String {
    let last = head.get("last_seq").and_then(Value::as_u64).unwrap_or(0);
    let after = last.saturating_sub(HISTORY);
    format!("/v1/sessions/{session}/events?limit={HISTORY}&after={after}")
}

fn last_session(options: &ChatOptions) -> Option<Uuid> {
    let folder = options.memory.as_ref()?;
    std::fs::read_to_string(folder.join("chat_session")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_session_is_shown_not_its_beginning() {
        let page = |last: u64| last_page(Uuid::nil(), &json!({ "last_seq": last }));
        assert!(page(9).ends_with("?limit=200&after=0"));
        assert!(page(1_000).ends_with("?limit=200&after=800"));
    }
}
