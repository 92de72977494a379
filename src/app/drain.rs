//! Waits for the end and sees it through, from the outside in.

use std::time::Duration;

use soma_config::Shutdown;
use soma_runtime::{Running, StopReport};
use tokio::time::{Instant, sleep, timeout};

use super::{ports::Ports, signals::Asked, watch::Watch};
use crate::{
    cli::exit,
    http::{Edge, Server},
};

/// How long anything may still take after the second signal.
const CUT: Duration = Duration::from_secs(1);
/// How long HTTP requests may take to end, of the whole drain.
const HTTP_LIMIT: Duration = Duration::from_secs(15);
/// How long closing the store may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A process that serves.
pub(super) struct Serving {
    pub(super) edge: Edge,
    pub(super) api: Server,
    pub(super) admin: Server,
    pub(super) running: Running,
    pub(super) watch: Watch,
    pub(super) ports: Ports,
}

impl Serving {
    /// Serves until a signal or the death of a critical service; returns the exit code.
    pub(super) async fn until_asked(self, shutdown: &Shutdown, mut asked: Asked) -> u8 {
        tokio::select! {
            _ = asked.wait_for(|count| *count > 0) => {}
            halt = self.running.halted() => tracing::error!(%halt, "the system halts"),
        }
        let began = Instant::now();
        self.watch.draining();
        self.running.end_process_after(shutdown.kill, i32::from(exit::FAILED));
        let forced = tokio::select! {
            () = self.drain_edge(shutdown.lame_duck) => false,
            _ = asked.wait_for(|count| *count > 1) => true,
        };
        let left = shutdown.drain.saturating_sub(began.elapsed());
        let (report, forced) = self.stop_services(left, forced, asked).await;
        self.close().await;
        let code = if forced && report.halt.is_none() { exit::FAILED } else { report.exit_code() };
        last_words(&report, code, began.elapsed());
        code
    }

    /// Lets load balancers notice, then ends requests; streams are told to come back.
    async fn drain_edge(&self, lame_duck: Duration) {
        if self.running.tree().halt.is_none() {
            sleep(lame_duck).await;
        }
        self.edge.drain();
        if timeout(HTTP_LIMIT, self.api.stop()).await.is_err() {
            tracing::warn!("requests were cut off");
        }
    }

    async fn stop_services(
        &self,
        left: Duration,
        forced: bool,
        mut asked: Asked,
    ) -> (StopReport, bool) {
        if forced {
            return (self.running.stop(CUT).await, true);
        }
        let stop = self.running.stop(left);
        tokio::pin!(stop);
        tokio::select! {
            report = &mut stop => (report, false),
            _ = asked.wait_for(|count| *count > 1) => {
                let (report, _) = tokio::join!(stop, self.running.stop(CUT));
                (report, true)
            }
        }
    }

    async fn close(&self) {
        let sqlite = std::sync::Arc::clone(&self.ports.sqlite);
        if let Err(error) =
            self.ports.io.call(CLOSE_LIMIT, async move { sqlite.close().await }).await
        {
            tracing::warn!(%error, "the store was not closed; nothing is lost by that");
        }
        if timeout(CUT, self.admin.stop()).await.is_err() {
            tracing::debug!("the admin listener was cut off");
        }
        self.ports.io.shutdown();
    }
}

fn last_words(report: &StopReport, code: u8, took: Duration) {
    let unclean: Vec<_> = report
        .services
        .iter()
        .filter(|service| service.ending != soma_runtime::Ending::Drained)
        .map(|service| format!("{}: {:?}", service.service, service.ending))
        .collect();
    let seconds = took.as_secs_f64();
    match &report.halt {
        Some(halt) => {
            tracing::error!(exit_code = code, seconds, %halt, "ended: the supervisor gave up");
        }
        None if unclean.is_empty() => tracing::info!(exit_code = code, seconds, "ended: drained"),
        None => tracing::warn!(exit_code = code, seconds, ?unclean, "ended: forced"),
    }
}
