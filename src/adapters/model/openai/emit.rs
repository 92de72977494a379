//! A stream that is written like a function: it tells events as it goes and returns the last one.

use std::future::Future;

use futures::{
    FutureExt, SinkExt, StreamExt,
    channel::mpsc,
    stream::{self, BoxStream},
};
use soma_contract::{
    model::{ModelAnswer, ModelEvent},
    port::model::ModelError,
};

type Item = Result<ModelEvent, ModelError>;

/// Events that may wait for the reader before the endpoint is no longer read.
const AHEAD: usize = 16;

/// Tells the events of a call.
#[derive(Debug)]
pub(super) struct Emit {
    events: mpsc::Sender<Item>,
    /// Whether there is text that a repeated call has to take back.
    told: bool,
}

impl Emit {
    /// Tells a piece of text.
    pub(super) async fn delta(&mut self, text: String) {
        self.told = true;
        self.tell(Ok(ModelEvent::Delta(text))).await;
    }

    /// Takes back what was told, if anything was.
    pub(super) async fn reset(&mut self) {
        if std::mem::take(&mut self.told) {
            self.tell(Ok(ModelEvent::Reset)).await;
        }
    }

    async fn tell(&mut self, item: Item) {
        // The receiver is polled by the same stream as this: it cannot be gone.
        self.events.send(item).await.ok();
    }
}

/// Runs `work` as a stream. Nothing is spawned: dropping the stream drops the work at once.
pub(super) fn stream<F, Fut>(work: F) -> BoxStream<'static, Item>
where
    F: FnOnce(Emit) -> Fut,
    Fut: Future<Output = Result<ModelAnswer, ModelError>> + Send + 'static,
{
    let (events, heard) = mpsc::channel(AHEAD);
    let (mut last, told_last) = mpsc::channel(1);
    let work = work(Emit { events, told: false }).map(move |outcome| {
        last.try_send(outcome.map(ModelEvent::Answer)).ok(); // Room for the one that it gets.
    });
    let work = stream::once(work).filter_map(|()| futures::future::ready(None));
    stream::select(heard, work).chain(told_last).boxed()
}
