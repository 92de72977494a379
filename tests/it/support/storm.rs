//! Many clients that talk while something bad happens, and what must be true afterwards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet};
use uuid::Uuid;

use super::{
    Api, Platform, Sent,
    log::{check_log, memories_are_single, memories_saved, results},
    until,
};

/// The load of one test.
#[derive(Debug)]
pub(crate) struct Storm {
    talks: JoinSet<Vec<Sent>>,
    sent: Vec<Vec<Sent>>,
    repeats: Arc<AtomicU64>,
}

impl Storm {
    /// Begins as many sessions, each with that many messages, one after another.
    pub(crate) fn begin(platform: &Platform, sessions: usize, messages: usize) -> Self {
        let repeats = Arc::new(AtomicU64::new(0));
        let mut talks = JoinSet::new();
        for _ in 0..sessions {
            talks.spawn(talk(platform.clients(), messages, Arc::clone(&repeats)));
        }
        Self { talks, sent: Vec::new(), repeats }
    }

    /// Returns whether every message has been taken.
    pub(crate) fn is_over(&mut self) -> bool {
        while let Some(talk) = self.talks.try_join_next() {
            self.sent.push(talk.unwrap());
        }
        self.talks.is_empty()
    }

    /// Waits until every message has been taken.
    pub(crate) async fn end(&mut self) {
        while let Some(talk) = self.talks.join_next().await {
            self.sent.push(talk.unwrap());
        }
    }

    /// How often a client did not learn whether its message was taken, and sent it again.
    pub(crate) fn repeats(&self) -> u64 {
        self.repeats.load(Ordering::Relaxed)
    }

    /// Checks that each message has ended once, in order, with each of its effects once.
    pub(crate) async fn check(mut self, platform: &Platform) {
        self.end().await;
        let api = platform.api();
        let mut saved = 0;
        for session in &self.sent {
            for message in session {
                api.terminal(message.event_id).await;
            }
            let id = session[0].session_id;
            let events = api.events(id).await;
            check_log(&events, session);
            saved += memories_saved(&events);
            let told = results(&events, "file_append");
            check_lines(&platform.setup.file(&format!("{id}.txt")).unwrap_or_default(), &told);
        }
        assert!(saved > 0, "nothing was remembered");
        until("every memory is there", async || memories_are_single(&api).await == saved).await;
    }
}

/// What is done once is done once where it is said to be done, and at most once where nobody knows.
fn check_lines(file: &str, told: &[String]) {
    let mut lines: Vec<_> = file.lines().collect();
    let written = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), written, "a line is there twice: {file}");
    let count = |status: &str| told.iter().filter(|told| *told == status).count();
    let (done, unknown) = (count("success"), count("unknown"));
    assert_eq!(done + unknown, told.len(), "{told:?}");
    assert!((done..=done + unknown).contains(&written), "{written} lines, told {told:?}");
}

/// Sends messages one after another, each until it is taken, to whatever server runs now. Now and
/// then it waits for an answer, as long as that server lives.
async fn talk(
    mut apis: watch::Receiver<Option<Api>>,
    messages: usize,
    repeats: Arc<AtomicU64>,
) -> Vec<Sent> {
    let session = Uuid::now_v7();
    let mut sent = Vec::new();
    for n in 0..messages {
        let text = match n % 4 {
            0 => format!("what time is it, asks {session} for the {n}th time"),
            1 => format!("remember that the number {n} belongs to {session}"),
            2 => format!("add {n} to the file {session}.txt"),
            _ => format!("hello {n}"),
        };
        let key = Uuid::now_v7().to_string();
        loop {
            let api = apis.wait_for(Option::is_some).await.unwrap().clone().unwrap();
            if let Some(accepted) = api.try_send(session, &text, &key).await {
                if n % 4 == 3 {
                    api.answered(accepted.event_id).await;
                }
                sent.push(accepted);
                break;
            }
            repeats.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    sent
}
