//! The runner: the task that lives an incarnation after another, as the cell's state says.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use actix::dev::{ContextFut, channel::AddressReceiver};
use futures::FutureExt;
use tokio::time::{Sleep, sleep, sleep_until};

use crate::{
    cause::{Cause, CauseKind},
    cell::Cell,
    decide::{Event, State},
    event::ServiceState,
    guard::{Guarded, catch, drop_quietly},
    host::{self, Host, Watched},
    link::LinkCore,
    scope::Body,
    service::{Service, Starting},
    shell::{self, Shell, Stage, Turn},
    spec::Placement,
    tree::Tree,
};

type Performance<S> = ContextFut<Shell<S>, Stage<S>>;

/// How a life ended.
enum End {
    Died(Cause),
    Drained,
    /// Somebody else has decided already; the cell says what.
    Superseded,
}

/// Starts the runner of line `line` on the thread that the service's placement asks for.
pub(crate) fn spawn<S: Service>(
    core: Arc<LinkCore<S>>,
    line: u64,
    mailbox: AddressReceiver<Shell<S>>,
) -> io::Result<()> {
    let Some(tree) = core.cell.tree().cloned() else {
        return Err(io::Error::other("the service is in no tree"));
    };
    let host = match core.cell.terms().placement {
        Placement::OwnArbiter => tree.hosts.own(&core.cell.name)?,
        Placement::Shared => tree.hosts.shared()?,
    };
    host.add(&core.cell);
    let thread = Arc::clone(&host);
    thread.run(move || {
        let cell = Arc::clone(&core.cell);
        let tenancy = Tenancy { cell: Arc::clone(&cell), tree, host: Arc::clone(&host), line };
        Watched::new(&host, &cell, run(core, tenancy, mailbox))
    })
}

/// A runner's place on a thread; dropped, it is the proof that the runner has ended.
struct Tenancy {
    cell: Arc<Cell>,
    tree: Arc<Tree>,
    host: Arc<Host>,
    line: u64,
}

impl Drop for Tenancy {
    fn drop(&mut self) {
        if self.host.remove(&self.cell) {
            self.tree.hosts.release(&self.host);
        }
        self.cell.set_placed(self.line, false);
    }
}

async fn run<S: Service>(
    core: Arc<LinkCore<S>>,
    tenancy: Tenancy,
    mailbox: AddressReceiver<Shell<S>>,
) {
    let mut stage = shell::stage::<S>(mailbox);
    let cell = &tenancy.cell;
    while cell.line() == tenancy.line {
        let record = cell.record();
        match record.state {
            State::Starting | State::Ready | State::Degraded => {
                live(&core, record.generation, &tenancy.host, &mut stage).await;
            }
            State::Stopping { .. } => cell.report(record.generation, Event::Drained),
            State::Backoff { until } => rest(&tenancy, record.state, Some(until)).await,
            State::Failed { retry_at } => rest(&tenancy, record.state, retry_at).await,
            State::Registered | State::Stopped => break,
        }
    }
    // Mail that nobody has begun is refused by its drop.
    drop_quietly(stage);
}

/// Waits until `due`, or until someone changes the state.
async fn rest(tenancy: &Tenancy, state: State, due: Option<Duration>) {
    let Tenancy { cell, tree, line, .. } = tenancy;
    let mut alarm = due.map(|due| Box::pin(sleep_until(tree.instant(due))));
    poll_fn(|context| {
        if cell.line() == *line {
            cell.waker.register(context.waker());
        }
        if cell.line() != *line || cell.state() != state {
            return Poll::Ready(());
        }
        alarm.as_mut().map_or(Poll::Pending, |alarm| alarm.poll_unpin(context))
    })
    .await;
    cell.apply(Event::Timer);
}

async fn live<S: Service>(
    core: &Arc<LinkCore<S>>,
    generation: u64,
    host: &Arc<Host>,
    stage: &mut Performance<S>,
) {
    let body = Body::new(core, generation, host);
    let component = Arc::clone(&body.component);
    let life = life(Rc::clone(&body), stage);
    let end = Guarded::new(Arc::clone(&component), life).await.unwrap_or_else(End::Died);
    // First let go of everything that callers wait for, then say so: they get the right error.
    host::dismiss(body.cell().id);
    stage.ctx().body = None;
    body.dismantle();
    drop(catch(&component, || stage.restart()));
    match end {
        End::Died(cause) => body.cell().report(generation, Event::Died(cause)),
        End::Drained => body.cell().report(generation, Event::Drained),
        End::Superseded => {}
    }
}

async fn life<S: Service>(body: Rc<Body<S>>, stage: &mut Performance<S>) -> End {
    body.create();
    host::enlist(body.cell().id, &body);
    if let Some(end) = start(&body).await {
        return end;
    }
    body.cell().report(body.generation, Event::Ready);
    stage.ctx().body = Some(Rc::clone(&body));
    let order = poll_fn(|context| serve(&body, stage, context)).await;
    match order {
        Some(end) => end,
        None => drain(&body).await,
    }
}

async fn start<S: Service>(body: &Rc<Body<S>>) -> Option<End> {
    let Starting::Later(mut starting) = body.start() else { return None };
    let mut deadline = Box::pin(sleep(body.cell().terms().start_deadline));
    poll_fn(|context| {
        match listen(body, context) {
            Order::Serve => {}
            // What has not started has nothing to drain.
            Order::Drain => return Poll::Ready(Some(End::Drained)),
            Order::End => return Poll::Ready(Some(End::Superseded)),
        }
        if let Poll::Ready(cause) = body.poll_background(&mut Turn::begin(), context) {
            return Poll::Ready(Some(End::Died(cause)));
        }
        match starting.poll_unpin(context) {
            Poll::Ready(Ok(())) => return Poll::Ready(None),
            Poll::Ready(Err(cause)) => return Poll::Ready(Some(End::Died(cause))),
            Poll::Pending => {}
        }
        deadline.poll_unpin(context).map(|()| Some(End::Died(start_timeout(body.cell()))))
    })
    .await
}

/// One turn. Resolves to `None` when the service is to drain.
fn serve<S: Service>(
    body: &Rc<Body<S>>,
    stage: &mut Performance<S>,
    context: &mut Context<'_>,
) -> Poll<Option<End>> {
    #[cfg(feature = "failpoints")]
    body.cell().suffer();
    match listen(body, context) {
        Order::Serve => {}
        Order::Drain => return Poll::Ready(None),
        Order::End => return Poll::Ready(Some(End::Superseded)),
    }
    stage.ctx().turn = Turn::begin();
    // One budget for both, and who came second has the first claim on the next.
    let background_first = stage.ctx().alternate();
    if background_first && let Poll::Ready(cause) = serve_background(body, stage, context) {
        return Poll::Ready(Some(End::Died(cause)));
    }
    if !stage.ctx().turn.is_spent() && Pin::new(&mut *stage).poll_unpin(context).is_ready() {
        return Poll::Ready(Some(End::Died(Cause::new("the actor's context ended"))));
    }
    if !background_first && let Poll::Ready(cause) = serve_background(body, stage, context) {
        return Poll::Ready(Some(End::Died(cause)));
    }
    if stage.ctx().turn.is_spent() {
        context.waker().wake_by_ref();
    }
    Poll::Pending
}

fn serve_background<S: Service>(
    body: &Rc<Body<S>>,
    stage: &mut Performance<S>,
    context: &mut Context<'_>,
) -> Poll<Cause> {
    body.poll_background(&mut stage.ctx().turn, context)
}

async fn drain<S: Service>(body: &Rc<Body<S>>) -> End {
    let mut stopping = Some(body.stop());
    let mut deadline: Option<(Duration, Pin<Box<Sleep>>)> = None;
    poll_fn(|context| {
        if !matches!(listen(body, context), Order::Drain) {
            return Poll::Ready(End::Superseded);
        }
        let State::Stopping { by, .. } = body.cell().state() else {
            return Poll::Ready(End::Superseded);
        };
        if let Poll::Ready(cause) = body.poll_background(&mut Turn::begin(), context) {
            return Poll::Ready(End::Died(cause));
        }
        if stopping.as_mut().is_some_and(|stopping| stopping.poll_unpin(context).is_ready()) {
            stopping = None;
        }
        if stopping.is_none() && body.is_idle() {
            return Poll::Ready(End::Drained);
        }
        // A second order may have brought the deadline forward.
        if deadline.as_ref().is_none_or(|(before, _)| *before != by) {
            let Some(tree) = body.cell().tree() else { return Poll::Ready(End::Drained) };
            deadline = Some((by, Box::pin(sleep_until(tree.instant(by)))));
        }
        let Some((_, alarm)) = &mut deadline else { return Poll::Pending };
        alarm.poll_unpin(context).map(|()| {
            body.cell().forced.store(true, Ordering::Relaxed);
            tracing::warn!(service = %body.cell().name, "the drain did not end in time");
            End::Drained
        })
    })
    .await
}

enum Order {
    Serve,
    Drain,
    End,
}

/// Asks to be woken when the state changes, and reads what the incarnation should be doing.
fn listen<S: Service>(body: &Body<S>, context: &Context<'_>) -> Order {
    let cell = body.cell();
    // A runner that was replaced may not take the waker's place from its successor.
    if cell.generation() != body.generation {
        return Order::End;
    }
    cell.waker.register(context.waker());
    if cell.generation() != body.generation {
        return Order::End;
    }
    match cell.gate().state {
        ServiceState::Starting | ServiceState::Ready | ServiceState::Degraded => Order::Serve,
        ServiceState::Stopping => Order::Drain,
        _ => Order::End,
    }
}

fn start_timeout(cell: &Cell) -> Cause {
    let message = format!("the start took longer than {:?}", cell.terms().start_deadline);
    Cause::of(CauseKind::StartTimeout, message)
}
