//! What the writer does: kinds of write, each done as one set for everybody who asked.

use std::any::Any;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use soma_contract::port::store::{StoreError, StoreResult};
use sqlx::SqliteConnection;
use tokio::sync::oneshot;

use super::fault::Fault;

/// What every operation may need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// The time of this commit.
    pub(super) now: DateTime<Utc>,
    /// Whether outbox rows are the records themselves.
    pub(super) bus_is_local: bool,
}

/// A kind of write that is done as one set for everybody who asked since the last commit.
pub(super) trait Operation: Sized + Send + Sync + 'static {
    /// What each request is answered.
    type Answer: Send + 'static;

    /// Names its failpoints.
    const NAME: &'static str;
    /// Whether it comes before all others.
    const FIRST: bool = false;

    /// Does all requests, in their order. An `Err` undoes and repeats them one by one; what is
    /// wrong with a single request belongs into its answer.
    fn run(
        connection: &mut SqliteConnection,
        terms: Terms,
        requests: &[Self],
    ) -> impl Future<Output = Result<Vec<StoreResult<Self::Answer>>, Fault>> + Send;
}

/// A write that is done for one caller.
pub(super) type Single<A> = Box<
    dyn for<'c> FnOnce(&'c mut SqliteConnection, Terms) -> BoxFuture<'c, Result<A, Fault>> + Send,
>;

/// Anything queued, whatever its types.
#[async_trait]
pub(super) trait Work: Send {
    fn name(&self) -> &'static str;

    /// Returns whether it comes before all others.
    fn comes_first(&self) -> bool {
        false
    }

    /// Returns how many requests it is.
    fn count(&self) -> usize;

    /// Takes in work of the same kind; gives other work back.
    fn absorb(&mut self, other: Box<dyn Work>) -> Option<Box<dyn Work>>;

    /// Does everything at once.
    async fn run_all(
        &mut self,
        connection: &mut SqliteConnection,
        terms: Terms,
    ) -> Result<(), Fault>;

    /// Does the request after those that were answered.
    async fn run_next(
        &mut self,
        connection: &mut SqliteConnection,
        terms: Terms,
    ) -> Result<(), Fault>;

    /// Answers the next request with an error.
    fn refuse_next(&mut self, error: StoreError);

    /// Sends the answers, or `instead` to everybody.
    fn answer(self: Box<Self>, instead: Option<StoreError>);

    fn into_any(self: Box<Self>) -> Box<dyn Any>;
    fn as_any(&self) -> &dyn Any;
}

/// Where the answers to a caller's requests go.
type Reply<O> = oneshot::Sender<Vec<StoreResult<<O as Operation>::Answer>>>;

/// Requests of one kind, from any number of callers.
pub(super) struct Set<O: Operation> {
    requests: Vec<O>,
    replies: Vec<(usize, Reply<O>)>,
    answers: Vec<StoreResult<O::Answer>>,
}

impl<O: Operation> Set<O> {
    /// Takes one caller's requests.
    pub(super) fn new(requests: Vec<O>, reply: Reply<O>) -> Self {
        Self { replies: vec![(requests.len(), reply)], requests, answers: Vec::new() }
    }
}

#[async_trait]
impl<O: Operation> Work for Set<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn comes_first(&self) -> bool {
        O::FIRST
    }

    fn count(&self) -> usize {
        self.requests.len()
    }

    fn absorb(&mut self, other: Box<dyn Work>) -> Option<Box<dyn Work>> {
        if !other.as_any().is::<Self>() {
            return Some(other);
        }
        if let Ok(other) = other.into_any().downcast::<Self>() {
            self.requests.extend(other.requests);
            self.replies.extend(other.replies);
        }
        None
    }

    async fn run_all(
        &mut self,
        connection: &mut SqliteConnection,
        terms: Terms,
    ) -> Result<(), Fault> {
        self.answers = O::run(connection, terms, &self.requests).await?;
        Ok(())
    }

    async fn run_next(
        &mut self,
        connection: &mut SqliteConnection,
        terms: Terms,
    ) -> Result<(), Fault> {
        let next = self.answers.len();
        let one = self.requests.get(next..=next).unwrap_or_default();
        self.answers.extend(O::run(connection, terms, one).await?);
        Ok(())
    }

    fn refuse_next(&mut self, error: StoreError) {
        self.answers.push(Err(error));
    }

    fn answer(self: Box<Self>, instead: Option<StoreError>) {
        let mut answers = self.answers.into_iter();
        for (count, reply) in self.replies {
            let mine = match &instead {
                Some(error) => (0..count).map(|_| Err(error.clone())).collect(),
                None => answers.by_ref().take(count).collect(),
            };
            // A caller that has gone needs no answer.
            reply.send(mine).ok();
        }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// One caller's own write.
pub(super) struct Once<A> {
    name: &'static str,
    run: Option<Single<A>>,
    answer: Option<StoreResult<A>>,
    reply: oneshot::Sender<StoreResult<A>>,
}

impl<A> Once<A> {
    /// Takes one caller's write.
    pub(super) fn new(
        name: &'static str,
        run: Single<A>,
        reply: oneshot::Sender<StoreResult<A>>,
    ) -> Self {
        Self { name, run: Some(run), answer: None, reply }
    }
}

#[async_trait]
impl<A: Send + 'static> Work for Once<A> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn count(&self) -> usize {
        1
    }

    fn absorb(&mut self, other: Box<dyn Work>) -> Option<Box<dyn Work>> {
        Some(other)
    }

    async fn run_all(
        &mut self,
        connection: &mut SqliteConnection,
        terms: Terms,
    ) -> Result<(), Fault> {
        let Some(run) = self.run.take() else { return Err(lost().into()) };
        self.answer = Some(Ok(run(connection, terms).await?));
        Ok(())
    }

    async fn run_next(&mut self, _: &mut SqliteConnection, _: Terms) -> Result<(), Fault> {
        Err(lost().into())
    }

    fn refuse_next(&mut self, error: StoreError) {
        self.answer = Some(Err(error));
    }

    fn answer(self: Box<Self>, instead: Option<StoreError>) {
        let Self { answer, reply, .. } = *self;
        let answer = instead.map_or_else(|| answer.unwrap_or_else(|| Err(lost())), Err);
        // A caller that has gone needs no answer.
        reply.send(answer).ok();
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Tells that nobody knows what became of a request.
pub(super) fn lost() -> StoreError {
    StoreError::OutcomeUnknown("the writer has ended".to_owned())
}
