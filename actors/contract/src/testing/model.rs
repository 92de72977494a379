//! A language model that plays scripts.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures::{StreamExt, future, stream, stream::BoxStream};
use tokio::sync::{Notify, watch};

use super::locked;
use crate::{
    model::{ChatRequest, ModelAnswer, ModelEvent, Usage},
    port::model::{Model, ModelError},
    tool::ToolCall,
};

/// What a scripted call does next.
#[derive(Debug, Clone)]
pub enum Play {
    /// Yields an event; after an answer the call is over.
    Say(ModelEvent),
    /// Waits until notified, then goes on.
    Until(Arc<Notify>),
    /// Fails; the call is over.
    Fail(ModelError),
    /// Never goes on.
    Hang,
    /// Panics with this message.
    Panic(String),
}

/// Plays one script per call; without one it repeats the newest message.
#[derive(Debug)]
pub struct FakeModel {
    inner: Mutex<Inner>,
    calls: watch::Sender<usize>,
    open: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Inner {
    scripts: VecDeque<Vec<Play>>,
    requests: Vec<ChatRequest>,
    unreachable: Option<ModelError>,
}

impl FakeModel {
    /// The name of the model that it says it is.
    pub const NAME: &'static str = "fake-model";

    /// Builds a model without scripts.
    pub fn new() -> Self {
        Self {
            inner: Mutex::default(),
            calls: watch::Sender::new(0),
            open: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Adds the script of a call.
    pub fn script(&self, plays: Vec<Play>) -> &Self {
        locked(&self.inner).scripts.push_back(plays);
        self
    }

    /// Lets a call answer with this text, in one piece per word.
    pub fn answers(&self, text: &str) -> &Self {
        self.script(spoken(text))
    }

    /// Lets a call ask for these tools: (call id, name, arguments as JSON text).
    pub fn calls_tools(&self, calls: &[(&str, &str, &str)]) -> &Self {
        let tool_calls = calls
            .iter()
            .map(|(id, name, arguments)| ToolCall {
                id: (*id).to_owned(),
                name: (*name).to_owned(),
                arguments: (*arguments).to_owned(),
            })
            .collect();
        self.script(vec![Play::Say(ModelEvent::Answer(answer("", tool_calls)))])
    }

    /// Lets a call fail.
    pub fn fails(&self, error: ModelError) -> &Self {
        self.script(vec![Play::Fail(error)])
    }

    /// Makes pings fail with this until `None` is set.
    pub fn set_unreachable(&self, error: Option<ModelError>) {
        locked(&self.inner).unreachable = error;
    }

    /// Returns the requests so far.
    pub fn requests(&self) -> Vec<ChatRequest> {
        locked(&self.inner).requests.clone()
    }

    /// Returns how many calls have neither ended nor been dropped.
    pub fn open_calls(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Waits until this many calls have been made in all.
    pub async fn called(&self, times: usize) {
        // The sender is ours, so that it cannot be gone.
        self.calls.subscribe().wait_for(|calls| *calls >= times).await.ok();
    }
}

impl Default for FakeModel {
    fn default() -> Self {
        Self::new()
    }
}

fn spoken(text: &str) -> Vec<Play> {
    text.split_inclusive(' ')
        .map(|word| ModelEvent::Delta(word.to_owned()))
        .chain([ModelEvent::Answer(answer(text, Vec::new()))])
        .map(Play::Say)
        .collect()
}

fn answer(text: &str, tool_calls: Vec<ToolCall>) -> ModelAnswer {
    let finish_reason = if tool_calls.is_empty() { "stop" } else { "tool_calls" };
    let output_tokens = u64::try_from(text.split_whitespace().count()).unwrap_or(u64::MAX);
    ModelAnswer {
        text: text.to_owned(),
        tool_calls,
        usage: Usage { input_tokens: 10, output_tokens },
        model: FakeModel::NAME.to_owned(),
        finish_reason: finish_reason.to_owned(),
    }
}

/// Counts a call as open while it lives.
#[derive(Debug)]
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Model for FakeModel {
    async fn chat(
        &self,
        request: ChatRequest,
    ) -> BoxStream<'static, Result<ModelEvent, ModelError>> {
        let script = {
            let mut inner = locked(&self.inner);
            let newest = request.messages.last().map_or("", |message| message.content());
            let script = inner.scripts.pop_front().unwrap_or_else(|| spoken(newest));
            inner.requests.push(request);
            script
        };
        let open = Open::new(&self.open);
        self.calls.send_modify(|calls| *calls += 1);
        stream::unfold((VecDeque::from(script), Some(open)), |(mut plays, open)| async move {
            // An ended call is not open, although its stream may not be dropped yet.
            let open = open?;
            let said = next(&mut plays).await?;
            let over = !matches!(said, Ok(ModelEvent::Delta(_) | ModelEvent::Reset));
            Some((said, (plays, (!over).then_some(open))))
        })
        .boxed()
    }

    fn default_model(&self) -> String {
        Self::NAME.to_owned()
    }

    async fn ping(&self) -> Result<(), ModelError> {
        locked(&self.inner).unreachable.clone().map_or(Ok(()), Err)
    }
}

#[expect(clippy::panic, reason = "a fake model panics where a script says so")]
async fn next(plays: &mut VecDeque<Play>) -> Option<Result<ModelEvent, ModelError>> {
    loop {
        match plays.pop_front()? {
            Play::Say(event) => return Some(Ok(event)),
            Play::Until(notify) => notify.notified().await,
            Play::Fail(error) => return Some(Err(error)),
            Play::Hang => future::pending().await,
            Play::Panic(message) => panic!("{message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ChatMessage;

    fn request(text: &str) -> ChatRequest {
        let messages = vec![ChatMessage::User { content: text.to_owned() }];
        ChatRequest { model: None, messages, tools: Vec::new() }
    }

    #[tokio::test]
    async fn a_call_without_a_script_repeats_the_newest_message() {
        let model = FakeModel::new();
        let events: Vec<_> = model.chat(request("one two")).await.collect().await;
        assert_eq!(events.len(), 3);
        assert_eq!(events[0], Ok(ModelEvent::Delta("one ".to_owned())));
        assert_eq!(model.requests(), [request("one two")]);
    }

    #[tokio::test]
    async fn a_call_is_open_until_it_ends_or_is_dropped() {
        let model = FakeModel::new();
        model.answers("yes").script(vec![Play::Hang]);
        let mut ended = model.chat(request("a")).await;
        let hanging = model.chat(request("b")).await;
        model.called(2).await;
        assert_eq!(model.open_calls(), 2);
        while ended.next().await.is_some() {}
        assert_eq!(model.open_calls(), 1);
        drop(hanging);
        assert_eq!(model.open_calls(), 0);
    }
}
