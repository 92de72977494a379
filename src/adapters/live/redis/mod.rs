//! Live over Redis: replicas hear each other, and share texts so far and rate limits. One server
//! (or the address of whichever is the primary), not a cluster.
//!
//! - One connection for commands, one on which this process hears; both are tried each second and
//!   opened anew with back-off.
//! - Telling never waits: it goes into a bounded queue, and is dropped and counted while Redis is
//!   away. Whoever may have missed something is told so, and looks at the store.
//! - With Redis away readers cannot listen, so that they poll the store; hints reach the services of
//!   this process alone; [`Live::take`] fails, and the caller limits by buckets of its own, which
//!   means that each replica grants the whole rate.
//! - Every key expires, and nothing durable is kept: a flushed server loses the beginning of texts
//!   that are being written, which then show again from their next step on.

mod ear;
mod line;
mod metrics;
mod names;
mod rooms;
mod scripts;
mod task;
#[cfg(test)]
#[cfg(feature = "cluster-tests")]
mod tests;
mod writer;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::Client;
use soma_config::ServerUrl;
use soma_contract::{
    SessionId,
    port::live::{Admission, Listener, Live, LiveError, LiveEvent, Nudge, NudgeListener, Snapshot},
};
use tokio::{runtime::Handle, time::timeout};

pub use self::metrics::LiveMetrics;
use self::{
    ear::Ear,
    line::Line,
    names::Names,
    scripts::TAKE,
    writer::{Write, Writer},
};
use crate::adapters::tls;

/// Where Redis is and how it is used.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server: `redis://` or, over TLS, `rediss://`, with user, password and database.
    pub url: ServerUrl,
    /// What all keys and channels begin with.
    pub prefix: String,
    /// How long a rate limit may take before the caller decides alone.
    pub take_timeout: Duration,
}

/// Why the adapter could not be built.
#[derive(Debug, thiserror::Error)]
#[error("`{url}` is no address of a redis server")]
pub struct SetupError {
    /// The address, without its password.
    url: String,
    /// What is wrong with it.
    #[source]
    source: redis::RedisError,
}

/// The live port that replicas share.
#[derive(Debug)]
pub struct RedisLive {
    line: Arc<Line>,
    writer: Writer,
    ear: Ear,
    names: Names,
    take_timeout: Duration,
}

impl RedisLive {
    /// Begins to connect, on this runtime, and returns at once: a server that is away is waited
    /// for in the background.
    ///
    /// # Errors
    ///
    /// The address is none.
    pub fn connect(
        options: Options,
        metrics: LiveMetrics,
        handle: &Handle,
    ) -> Result<Self, SetupError> {
        tls::install();
        let client = Client::open(options.url.expose())
            .map_err(|source| SetupError { url: format!("{:?}", options.url), source })?;
        let names = Names::new(options.prefix);
        let line = Line::open(client.clone(), names.probe(), metrics.clone(), handle);
        let line = Arc::new(line);
        let writer = Writer::start(Arc::clone(&line), names.clone(), metrics.clone(), handle);
        let ear = Ear::open(client, names.clone(), metrics, handle);
        Ok(Self { line, writer, ear, names, take_timeout: options.take_timeout })
    }

    /// Waits until both connections work.
    pub async fn connected(&self) {
        self.line.connected().await;
        self.ear.connected().await;
    }
}

#[async_trait]
impl Live for RedisLive {
    async fn publish(&self, session_id: SessionId, event: LiveEvent) {
        self.writer.write(Write::Event(session_id, event));
    }

    async fn listen(&self, session_id: SessionId) -> Result<Box<dyn Listener>, LiveError> {
        self.writer.flush().await?;
        self.ear.listen(session_id).await
    }

    async fn snapshot(&self, session_id: SessionId) -> Result<Option<Snapshot>, LiveError> {
        self.writer.flush().await?;
        let mut connection = self.line.connection()?;
        let kept: Option<String> = redis::cmd("GET")
            .arg(self.names.text(session_id))
            .query_async(&mut connection)
            .await
            .map_err(|error| self.line.failed(&error))?;
        kept.as_deref().map(scripts::snapshot).transpose()
    }

    async fn clear(&self, session_id: SessionId) {
        self.writer.write(Write::Clear(session_id));
    }

    async fn nudge(&self, nudge: Nudge) {
        let is_told = self.writer.write(Write::Nudge(nudge.clone()));
        if !is_told || self.ear.check().is_err() {
            self.ear.nudge_here(nudge);
        }
    }

    async fn nudges(&self) -> Box<dyn NudgeListener> {
        self.ear.nudges()
    }

    async fn take(
        &self,
        bucket: &str,
        per_second: u32,
        burst: u32,
    ) -> Result<Admission, LiveError> {
        let mut connection = self.line.connection()?;
        let mut taking = TAKE.key(self.names.bucket(bucket));
        taking.arg(per_second.max(1)).arg(burst.max(1));
        let wait: u64 = timeout(self.take_timeout, taking.invoke_async(&mut connection))
            .await
            .map_err(|_elapsed| self.line.overdue())?
            .map_err(|error| self.line.failed(&error))?;
        Ok(match wait {
            0 => Admission::Granted,
            wait => Admission::Limited(Duration::from_micros(wait)),
        })
    }

    async fn ping(&self) -> Result<(), LiveError> {
        self.line.connection()?;
        self.ear.check()
    }
}
