//! What the log tells, and that work stays within its span wherever it runs.

use std::sync::{Arc, Mutex};

use soma_runtime::{Io, Reply, ServiceState, Spec};
use tracing::{
    Event, Id, Instrument, Span, Subscriber,
    field::{Field, Visit},
    subscriber::DefaultGuard,
};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::support::{Count, FOREVER, Run, Victim, launch_here, until};

/// Keeps what is logged, a line each, and which threads have entered a span.
#[derive(Debug, Clone, Default)]
struct Kept {
    lines: Arc<Mutex<Vec<String>>>,
    entered: Arc<Mutex<Vec<String>>>,
}

/// Writes `name=value` for each field.
#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write;
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

impl<S: Subscriber> Layer<S> for Kept {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.lines.lock().unwrap().push(line.0);
    }

    fn on_enter(&self, _: &Id, _: Context<'_, S>) {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        self.entered.lock().unwrap().push(name);
    }
}

impl Kept {
    /// Listens on this thread until the guard is dropped.
    fn listen() -> (Self, DefaultGuard) {
        let kept = Self::default();
        let subscriber = tracing_subscriber::registry().with(kept.clone());
        (kept, tracing::subscriber::set_default(subscriber))
    }

    fn with(&self, parts: &[&str]) -> usize {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }
}

#[actix_rt::test]
async fn each_change_of_state_is_an_event_and_a_line_and_a_panic_is_told_with_its_place() {
    let (kept, _listening) = Kept::listen();
    let spec = Spec::new("victim", Victim::default);
    let link = spec.link();
    let running = launch_here([spec.into()]).await.unwrap();
    let mut events = running.events();
    link.outlet().send(Run::new(|_| panic!("on purpose"))).await.unwrap_err();
    let starting = until(&mut events, "victim", ServiceState::Starting).await;
    assert_eq!((starting.from, starting.generation), (ServiceState::Ready, 2));
    let cause = starting.cause.unwrap();
    assert_eq!(cause.message, "on purpose");
    let place = cause.location.unwrap();
    until(&mut events, "victim", ServiceState::Ready).await;
    running.stop(FOREVER).await;
    for (from, to, times) in [
        ("registered", "starting", 1),
        ("ready", "starting", 1),
        ("starting", "ready", 2),
        ("ready", "stopping", 1),
        ("stopping", "stopped", 1),
    ] {
        let parts = ["service=victim", &format!("from={from} "), &format!("to={to} ")];
        assert_eq!(kept.with(&parts), times, "{from} to {to}");
    }
    assert_eq!(kept.with(&["service restarts", "on purpose", &place]), 1);
    assert_eq!(kept.with(&["panicked", "component=victim", "on purpose", &place]), 1);
}

#[actix_rt::test]
async fn a_call_of_a_service_and_its_io_run_within_the_span_of_the_caller() {
    let (kept, _listening) = Kept::listen();
    let io = Io::new(1).unwrap();
    let spec = Spec::new("victim", Victim::default);
    let link = spec.link();
    let running = launch_here([spec.into()]).await.unwrap();
    let span = tracing::info_span!("request");
    let id = span.id();
    let call = Run::new(move |_| {
        assert_eq!(Span::current().id(), id);
        Reply::later(async move {
            assert_eq!(Span::current().id(), id);
            io.call(FOREVER, async { 7 }).await.unwrap()
        })
    });
    let outlet = link.outlet();
    assert_eq!(outlet.send(call).instrument(span).await, Ok(7));
    let io_entered = kept.entered.lock().unwrap().iter().any(|thread| thread == "io");
    assert!(io_entered, "{:?}", kept.entered);
    assert_eq!(link.outlet().send(Count).await, Ok(1));
    running.stop(FOREVER).await;
}
