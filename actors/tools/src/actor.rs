//! The service: it starts its loop and ears, and tells how it is.

use std::{fmt, rc::Rc, sync::Arc};

use soma_runtime::{Answer, Health, Message, Reply, Scope, Service, Starting};

use crate::{
    claims::{Claims, Desk},
    ears::{hear_hints, read_requests},
    parts::Parts,
};

/// The tool executor; see the crate's card.
pub struct ToolExecutor {
    parts: Arc<Parts>,
    desk: Rc<Desk>,
}

impl ToolExecutor {
    /// Builds an incarnation that has claimed nothing yet.
    pub fn new(parts: Arc<Parts>) -> Self {
        Self { parts, desk: Rc::default() }
    }
}

impl fmt::Debug for ToolExecutor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ToolExecutor").field("desk", &self.desk).finish_non_exhaustive()
    }
}

/// Asks the executor, once per incarnation and by itself, to work until the drain.
#[derive(Debug)]
pub(crate) struct Work;

impl Message for Work {
    type Result = ();
}

impl Service for ToolExecutor {
    fn start(&mut self, scope: &Scope<Self>) -> Starting {
        scope.notify(Work);
        Starting::ready()
    }

    fn health(&self) -> Health {
        self.desk.trouble().map_or_else(Health::ok, Health::degraded)
    }
}

impl Answer<Work> for ToolExecutor {
    /// The loop and the ears run in the service's own context: a panic in one is its death, never
    /// a silence, and a drain waits for them.
    fn answer(&mut self, Work: Work, scope: &Scope<Self>) -> Reply<()> {
        let drain = scope.draining();
        let claims = Claims::new(Arc::clone(&self.parts), Rc::clone(&self.desk), scope.clone());
        let hints = hear_hints(Arc::clone(&self.parts), Rc::clone(&self.desk), drain.clone());
        let requests = read_requests(Arc::clone(&self.parts), Rc::clone(&self.desk), drain);
        Reply::later(async move {
            futures::join!(claims.run(), hints, requests);
        })
    }
}
