//! Waits for the end and sees it through, from the outside in.

use std::{future::pending, time::Duration};

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
/// When the watchdog ends the process after the second signal: all that is cut comes one after the
/// other.
const CUT_KILL: Duration = Duration::from_secs(10);
/// How long HTTP requests may take to end, of the whole drain.
const HTTP_LIMIT: Duration = Duration::from_secs(15);
/// How long closing store and bus may take.
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
        let gave_up = tokio::select! {
            _ = asked.wait_for(|count| *count > 0) => false,
            halt = self.running.halted() => {
                tracing::error!(%halt, "the system halts");
                true
            }
        };
        let began = Instant::now();
        self.watch.draining();
        let code = if gave_up { exit::GAVE_UP } else { exit::FAILED };
        self.running.end_process_after(shutdown.kill, i32::from(code));
        fail::fail_point!("drain");
        let mut hurry = Hurry { asked, running: self.running.clone() };
        if !gave_up {
            hurry.rest(shutdown.lame_duck).await;
        }
        let left = || shutdown.drain.saturating_sub(began.elapsed());
        self.end_requests(left(), &mut hurry).await;
        let report = self.stop_services(left(), &mut hurry).await;
        self.close(&mut hurry).await;
        let forced = hurry.is_on() && report.halt.is_none();
        let code = if forced { exit::FAILED } else { report.exit_code() };
        last_words(&report, code, began.elapsed());
        code
    }

    /// Ends requests; streams are told to come back.
    async fn end_requests(&self, left: Duration, hurry: &mut Hurry) {
        self.edge.drain();
        if hurry.limit(HTTP_LIMIT.min(left), self.api.stop()).await.is_none() {
            tracing::warn!("requests were cut off");
        }
    }

    async fn stop_services(&self, left: Duration, hurry: &mut Hurry) -> StopReport {
        if hurry.is_on() {
            return self.running.stop(CUT).await;
        }
        let stop = self.running.stop(left);
        tokio::pin!(stop);
        tokio::select! {
            report = &mut stop => report,
            () = hurry.asked() => tokio::join!(stop, self.running.stop(CUT)).0,
        }
    }

    async fn close(&self, hurry: &mut Hurry) {
        let (engine, carrier) = (self.ports.engine.clone(), self.ports.carrier.clone());
        let close = async move {
            tokio::join!(engine.close(), carrier.close());
        };
        let close = self.ports.io.call(CLOSE_LIMIT, close);
        if !matches!(hurry.limit(CLOSE_LIMIT, close).await, Some(Ok(()))) {
            tracing::warn!("store and bus were not closed; nothing is lost by that");
        }
        if hurry.limit(CUT, self.admin.stop()).await.is_none() {
            tracing::debug!("the admin listener was cut off");
        }
        self.ports.io.shutdown();
    }
}

/// The second signal, from which on nothing may take longer than [`CUT`].
struct Hurry {
    asked: Asked,
    running: Running,
}

impl Hurry {
    fn is_on(&self) -> bool {
        *self.asked.borrow() > 1
    }

    /// Waits for the second signal.
    async fn asked(&mut self) {
        if self.asked.wait_for(|count| *count > 1).await.is_err() {
            pending::<()>().await;
        }
        self.running.end_process_after(CUT_KILL, i32::from(exit::FAILED));
    }

    /// Waits for `time`, or until there is no more time to wait.
    async fn rest(&mut self, time: Duration) {
        tokio::select! {
            () = sleep(time) => {}
            () = self.asked() => {}
        }
    }

    /// Lets `work` take its time within `limit`; `None` if it was cut off.
    async fn limit<F: Future>(&mut self, limit: Duration, work: F) -> Option<F::Output> {
        tokio::pin!(work);
        if !self.is_on() {
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = sleep(limit) => return None,
                () = self.asked() => {}
            }
        }
        timeout(CUT.min(limit), work).await.ok()
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
