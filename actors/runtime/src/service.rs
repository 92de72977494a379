//! What a service is: the base that every service shares, and how it answers.

use std::fmt;

use futures::future::{self, LocalBoxFuture};
use serde::Serialize;

use crate::{cause::Cause, scope::Scope};

/// A request with one typed answer.
pub trait Message: Send + 'static {
    /// The answer.
    type Result: Send + 'static;
}

/// A supervised service. Its state is built new by a factory for each incarnation, on the thread
/// that runs it, so it need not be `Send`; what must outlive an incarnation lives behind a port.
pub trait Service: Sized + Unpin + 'static {
    /// Does the work that comes before `ready`.
    ///
    /// An `Err` is a failed start. A dependency that cannot be reached is not one: start, and
    /// report `degraded`.
    fn start(&mut self, scope: &Scope<Self>) -> Starting {
        let _ = scope;
        Starting::ready()
    }

    /// Tells how the service is. Called out of band of the mailbox, so it must be quick and may
    /// not block.
    fn health(&self) -> Health {
        Health::ok()
    }

    /// Drains: ends what runs. New messages are refused already.
    ///
    /// The incarnation ends when the future has resolved and every answer begun has been given,
    /// at the latest at the stop deadline. Children that run then are aborted.
    fn stop(&mut self, scope: &Scope<Self>) -> LocalBoxFuture<'static, ()> {
        let _ = scope;
        Box::pin(future::ready(()))
    }
}

/// A service that answers messages of type `M`.
pub trait Answer<M: Message>: Service {
    /// Answers at once, or says how the answer will come.
    fn answer(&mut self, message: M, scope: &Scope<Self>) -> Reply<M::Result>;
}

/// How a start goes on.
pub enum Starting {
    /// It is done.
    Ready,
    /// It is done when this resolves.
    Later(LocalBoxFuture<'static, Result<(), Cause>>),
}

impl Starting {
    /// Says that there is nothing (more) to do.
    pub const fn ready() -> Self {
        Self::Ready
    }

    /// Says that the start is done when `future` resolves.
    pub fn later(future: impl Future<Output = Result<(), Cause>> + 'static) -> Self {
        Self::Later(Box::pin(future))
    }

    /// Says that the start has failed.
    pub fn failed(cause: impl Into<Cause>) -> Self {
        let cause = cause.into();
        Self::later(future::ready(Err(cause)))
    }
}

impl fmt::Debug for Starting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ready => "Ready",
            Self::Later(_) => "Later(..)",
        })
    }
}

/// An answer, or the future of one.
pub enum Reply<T> {
    /// The answer.
    Now(T),
    /// The answer comes when this resolves. It runs in the service's own context: a panic in it is
    /// a death of the service, and it ends with the incarnation. Work whose panic should fail only
    /// the item runs in a [child](Scope::child) that this awaits.
    Later(LocalBoxFuture<'static, T>),
}

impl<T> Reply<T> {
    /// Answers when `future` resolves.
    pub fn later(future: impl Future<Output = T> + 'static) -> Self {
        Self::Later(Box::pin(future))
    }
}

impl<T> From<T> for Reply<T> {
    fn from(answer: T) -> Self {
        Self::Now(answer)
    }
}

impl<T: fmt::Debug> fmt::Debug for Reply<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(answer) => formatter.debug_tuple("Now").field(answer).finish(),
            Self::Later(_) => formatter.write_str("Later(..)"),
        }
    }
}

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// All is well.
    #[default]
    Ok,
    /// It works, less well than it should.
    Degraded,
    /// It does not work.
    Down,
}

/// A service's or port's word on itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Health {
    /// How well it is.
    pub status: HealthStatus,
    /// What is wrong, where something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Health {
    /// All is well.
    pub const fn ok() -> Self {
        Self { status: HealthStatus::Ok, detail: None }
    }

    /// It works, less well than it should, because of `detail`.
    pub fn degraded(detail: impl Into<String>) -> Self {
        Self { status: HealthStatus::Degraded, detail: Some(detail.into()) }
    }

    /// It does not work, because of `detail`.
    pub fn down(detail: impl Into<String>) -> Self {
        Self { status: HealthStatus::Down, detail: Some(detail.into()) }
    }

    /// Returns the worse of two.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        if other.status > self.status { other } else { self }
    }
}
